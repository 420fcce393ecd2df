"""Loaders of torchdata, litdata, MosaicML Streaming and webdataset in a learner that is interrupted."""

from __future__ import annotations

import random
import signal
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from callbacks import Callback, Checkpoint
from learner import Data, Learner
from learner.passes import positions

N_ITEMS, BATCH_SIZE, N_EPOCHS = 11, 3, 3  # so 4 batches
# The last checkpoint before each of these steps: in the middle, before the last batch, at the end of a pass.
CUTS = (3, 4, 5, 9)

pytestmark = pytest.mark.filterwarnings(
    "ignore:'set_vital' is deprecated:UserWarning",
    "ignore:a run that is interrupted may not resume:callbacks.LearnerWarning",
)


class Lights(Callback):
    """Writes down the items of each step, and goes out at one of them."""

    def __init__(self, seen, cut=None):
        super().__init__()
        self.seen, self.cut = seen, cut

    def after_batch(self, learn):
        if learn.training:
            self.seen[learn.global_step] = learn.epoch, learn.batch[1].flatten().tolist()

    def after_step(self, learn):
        if learn.global_step == self.cut:
            raise RuntimeError("the lights go out")


class Pressed(Lights):
    """Presses Ctrl-C instead."""

    def after_step(self, learn):
        if learn.global_step == self.cut:
            signal.raise_signal(signal.SIGINT)


def trained(make, folder, seen, cut=None, *, end=Lights, every="1 steps"):
    """The losses and the weights after a fit over a new loader."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    callbacks = [Checkpoint(folder, every=every), end(seen, cut)]
    sgd = partial(torch.optim.SGD, lr=0.01)
    learn = Learner(model, Data(make()), nn.functional.mse_loss, sgd, callbacks=callbacks)
    learn.fit(N_EPOCHS, resume="auto")
    return list(learn.history.steps["train_loss"]), *model.parameters()


def assert_resumes(make, folder, cuts=CUTS):
    """A fit that is interrupted at these steps sees the items, and ends with the bits, of one that is not."""
    whole = {}
    losses, *weights = trained(make, folder / "whole", whole)
    for cut in cuts:
        seen = {}
        with pytest.raises(RuntimeError, match="the lights go out"):
            trained(make, folder / str(cut), seen, cut)
        losses_now, *weights_now = trained(make, folder / str(cut), seen)
        assert seen == whole
        assert losses_now == losses
        assert all(map(torch.equal, weights_now, weights))
    return whole


def assert_once(seen):
    """Each epoch has each item once."""
    for epoch in range(N_EPOCHS):
        items = [item for at, items in seen.values() if at == epoch for item in items]
        assert sorted(items) == list(range(N_ITEMS))


def pair(numbers):
    inputs = torch.tensor([[float(each)] for each in numbers])
    return inputs / N_ITEMS, inputs


# torchdata


def nodes_loader(sampler, n_threads=0):
    nodes = pytest.importorskip("torchdata.nodes")
    batches = nodes.Batcher(nodes.SamplerWrapper(sampler), BATCH_SIZE, drop_last=False)
    if n_threads:
        return nodes.Loader(nodes.ParallelMapper(batches, pair, num_workers=n_threads, method="thread"))
    return nodes.Loader(nodes.Mapper(batches, pair))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(range(N_ITEMS), generator=torch.Generator().manual_seed(1)),
        lambda: SequentialSampler(range(N_ITEMS)),
    ],
    ids=["shuffled", "in order"],
)
def test_nodes_of_torchdata_resume_also_at_the_end_of_a_pass(make, tmp_path):
    assert_once(assert_resumes(lambda: nodes_loader(make()), tmp_path))


def test_nodes_of_torchdata_with_threads_resume(tmp_path):
    assert_resumes(lambda: nodes_loader(SequentialSampler(range(N_ITEMS)), n_threads=2), tmp_path, (3, 5))


# Loaders whose `__iter__` is a generator, as those of litdata and MosaicML


class Shuffled(IterableDataset):
    """A stream in an order of its own for each epoch, which starts at a position."""

    def __init__(self):
        self.order, self.n_read = (
            torch.zeros(2, dtype=torch.int64),
            0,
        )  # the number of the epoch, and the start

    def __iter__(self):
        number, start = self.order.tolist()
        items = torch.randperm(N_ITEMS, generator=torch.Generator().manual_seed(number)).tolist()
        for item in items[start:]:
            self.n_read += 1
            yield item


class Restarting(DataLoader):
    """As in litdata: with the state of the end of a pass, the next pass starts."""

    restore = False
    n_done, number = 0, 0

    def __init__(self):
        super().__init__(Shuffled(), BATCH_SIZE, collate_fn=pair)

    def __iter__(self):
        if not self.restore:
            self.n_done, self.number = 0, self.number + 1
        self.dataset.order[:] = torch.tensor([self.number, self.n_done * BATCH_SIZE])
        for batch in super().__iter__():
            self.n_done += 1
            yield batch
        self.restore = False

    def state_dict(self):
        return {"n_done": self.n_done, "number": self.number}

    def load_state_dict(self, state):
        vars(self).update(state)
        self.restore = 0 < self.n_done < 4


class Ending(Restarting):
    """As in MosaicML Streaming: with the state of the end of a pass, a pass is empty."""

    restore = None
    is_loaded = False

    def __iter__(self):
        if not self.is_loaded:
            self.n_done, self.number = 0, self.number + 1
        self.is_loaded = False
        self.dataset.order[:] = torch.tensor([self.number, self.n_done * BATCH_SIZE])
        for batch in DataLoader.__iter__(self):
            self.n_done += 1
            yield batch

    def load_state_dict(self, state):
        vars(self).update(state)
        self.is_loaded = True


class Persistent(Restarting):
    """A worker that is kept draws its seed in the first epoch alone."""

    def __init__(self):
        DataLoader.__init__(
            self, Shuffled(), BATCH_SIZE, collate_fn=pair, num_workers=1, persistent_workers=True
        )
        self.dataset.order = torch.zeros(2, dtype=torch.int64).share_memory_()


@pytest.mark.parametrize("make", [Restarting, Ending, Persistent])
def test_a_loader_that_starts_its_workers_at_the_first_batch_resumes_with_the_same_bits(make, tmp_path):
    assert_once(assert_resumes(make, tmp_path))


def test_a_loader_with_a_state_does_not_read_earlier_epochs_again(tmp_path):
    with pytest.raises(RuntimeError, match="the lights go out"):
        trained(Restarting, tmp_path, {}, cut=11)
    loader = Restarting()
    trained(lambda: loader, tmp_path, {})
    assert loader.dataset.n_read == N_ITEMS - 2 * BATCH_SIZE


# The libraries themselves


@pytest.fixture(scope="module")
def litdata_folder(tmp_path_factory):
    cache = pytest.importorskip("litdata.streaming.cache")
    folder = str(tmp_path_factory.mktemp("litdata"))
    writer = cache.Cache(folder, chunk_size=4)
    for item in range(N_ITEMS):
        writer._add_item(item, {"item": item})
    writer.done()
    writer.merge()
    return folder


@pytest.mark.parametrize("n_workers", [0, 2])
def test_litdata_resumes_by_its_state(n_workers, litdata_folder, tmp_path):
    litdata = pytest.importorskip("litdata")

    def make():
        dataset = litdata.StreamingDataset(litdata_folder, shuffle=True)
        options = {"num_workers": n_workers, "collate_fn": pair_of_dicts}
        return litdata.StreamingDataLoader(dataset, batch_size=BATCH_SIZE, **options)

    assert_once(assert_resumes(make, tmp_path, CUTS if n_workers == 0 else (3, 5)))


def pair_of_dicts(items):
    return pair([int(each["item"]) for each in items])


@pytest.fixture(scope="module")
def mosaic_folder(tmp_path_factory):
    streaming = pytest.importorskip("streaming")
    folder = str(tmp_path_factory.mktemp("mosaic"))
    with streaming.MDSWriter(out=folder, columns={"item": "int"}, size_limit=1000) as writer:
        for item in range(N_ITEMS):
            writer.write({"item": item})
    return folder


@pytest.mark.parametrize("n_workers", [0, 2])
def test_mosaic_streaming_resumes_by_its_state(n_workers, mosaic_folder, tmp_path):
    streaming = pytest.importorskip("streaming")

    def make():
        streaming.base.util.clean_stale_shared_memory()  # as a new process would find it
        dataset = streaming.StreamingDataset(local=mosaic_folder, batch_size=BATCH_SIZE, shuffle=True)
        options = {"num_workers": n_workers, "collate_fn": pair_of_dicts}
        return streaming.StreamingDataLoader(dataset, batch_size=BATCH_SIZE, **options)

    assert_once(assert_resumes(make, tmp_path, CUTS if n_workers == 0 else (3, 5)))


# webdataset


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path_factory.mktemp("webdataset")
    with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=3, verbose=0) as writer:
        for item in range(N_ITEMS):
            writer.write({"__key__": f"{item:04}", "cls": item})
    return sorted(map(str, folder.glob("*.tar")))


def web_loader(shards, *stages, n_workers=0, **options):
    """Shuffled shards, and batches that are shuffled again in the main process."""
    webdataset = pytest.importorskip("webdataset")
    dataset = webdataset.WebDataset(shards, shardshuffle=100, seed=3).decode().to_tuple("cls")
    loader = webdataset.WebLoader(dataset.batched(2), batch_size=None, num_workers=n_workers, **options)
    return loader.unbatched().compose(*stages).batched(BATCH_SIZE).map(pair_of_columns)


def pair_of_columns(batch):
    return pair(batch[0].tolist())


@pytest.mark.parametrize("n_workers", [0, 2])
def test_webdataset_resumes_by_reading_again_up_to_the_position(n_workers, shards, tmp_path):
    webdataset = pytest.importorskip("webdataset")

    def make():
        return web_loader(shards, webdataset.shuffle(20, rng=random.Random(0)), n_workers=n_workers)

    seen = assert_resumes(make, tmp_path, CUTS if n_workers == 0 else (3,))
    assert_once(seen)
    epochs = [[items for at, items in seen.values() if at == epoch] for epoch in range(N_EPOCHS)]
    assert epochs[0] != epochs[1]


def test_a_fit_that_ctrl_c_ends_resumes_with_persistent_workers(shards, tmp_path):
    webdataset = pytest.importorskip("webdataset")

    def make():
        shuffle = webdataset.shuffle(20, rng=random.Random(0))
        return web_loader(shards, shuffle, n_workers=1, persistent_workers=True)

    whole, seen = {}, {}
    losses, *weights = trained(make, tmp_path / "whole", whole, every="1 epoch")
    with pytest.raises(KeyboardInterrupt):
        trained(make, tmp_path / "run", seen, cut=6, end=Pressed, every="1 epoch")
    assert max(seen) == 6  # in the middle of a pass
    losses_now, *weights_now = trained(make, tmp_path / "run", seen, every="1 epoch")
    assert seen == whole
    assert losses_now == losses
    assert all(map(torch.equal, weights_now, weights))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_shuffle_that_is_seeded_by_the_clock_is_reported(n_workers, shards):
    webdataset = pytest.importorskip("webdataset")
    clock = web_loader(shards, webdataset.shuffle(20), n_workers=n_workers)
    assert "Pass a generator, .shuffle(1000, rng=random.Random(0))" in positions.limits(clock)
    seeded = web_loader(shards, webdataset.shuffle(20, seed=1), n_workers=n_workers)
    assert "clock" not in positions.limits(seeded)
    again = webdataset.WebDataset(shards, resampled=True, shardshuffle=False)
    assert "deterministic=True" in positions.limits(DataLoader(again, 3, num_workers=n_workers))
