"""DevicePlacement sends batches on a stream: an imitated one takes its time, and finds what was torn."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from waits import fit_strictly

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelTrain,
    CancelValidate,
    Checkpoint,
    DevicePlacement,
    Metrics,
    Recorder,
    ZeroGrad,
)
from callbacks.place import device
from callbacks.place.device import map_tensors, tensors_in
from callbacks.place.prefetch import AHEAD, CudaLane, Prefetch
from learner import Data, Learner
from learner.learner import DEFAULT_CALLBACKS
from tests.callbacks.place.test_device import NESTS

N, SIZE = 41, 4
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class Event:
    def __init__(self, lane, n_asked):
        self.lane, self.n_asked = lane, n_asked

    def synchronize(self):
        self.lane.finish(self.n_asked)


class FakeLane:
    """A device whose copies, as far as anybody knows, are under way until its computations are waited for."""

    def __init__(self, pinned=()):
        self.pinned = {tensor.untyped_storage().data_ptr() for tensor in pinned}
        self.flights, self.there, self.owned = [], {}, []
        self.n_begun = self.n_done = self.most = self.n_torn = self.n_pinned = 0

    def takes(self, tensor):
        return type(tensor) is torch.Tensor and id(tensor) not in self.there

    def is_pinned(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.pinned

    def pin(self, tensor):
        self.n_pinned += 1
        return tensor.clone()

    def send(self, tensor):
        made = tensor.clone()
        self.flights.append((self.n_begun, tensor, made))
        self.there[id(made)] = made
        return made

    def hand_over(self, tensors):
        self.owned += tensors

    def reached(self):
        self.n_begun += 1
        self.most = max(self.most, self.n_begun - self.n_done)
        return Event(self, self.n_begun)

    def finish(self, n_begun):
        """Computations before this batch are done, so their copies are."""
        self.n_done = max(self.n_done, n_begun - 1)
        for flight in [each for each in self.flights if each[0] < n_begun]:
            self.flights.remove(flight)
            self.n_torn += not torch.equal(flight[1], flight[2])


@pytest.fixture
def lane(monkeypatch):
    return imitated(monkeypatch)


def imitated(monkeypatch, pinned=()):
    made = FakeLane(pinned)
    monkeypatch.setattr(device, "lane_to", lambda _: made)
    return made


class Noisy(torch.utils.data.Dataset):
    """Items with noise from the stream that dropout draws from; counts what is fetched."""

    n_fetched = 0

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.n_fetched += 1
        return torch.rand(3) + index / N, torch.tensor([index / N])


class At(Callback):
    """Call a function after a number of batches, of training and validation."""

    def __init__(self, n, act):
        super().__init__()
        self.n, self.act, self.seen = n, act, 0

    def after_batch(self, learn):
        self.seen += 1
        if self.seen == self.n:
            self.act(learn)


class Batches(Callback):
    """Keeps the sum of every batch."""

    state = ("sums",)

    def __init__(self):
        super().__init__()
        self.sums = []

    def after_batch(self, learn):
        self.sums.append([tensor.double().sum().item() for tensor in tensors_in(learn.batch)])


def make(*callbacks, prefetch=True, train=None, valid=None, seed=1, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1))
    train = DataLoader(Noisy(), SIZE, shuffle=True) if train is None else train
    return Learner(
        model,
        Data(train, valid),
        F.mse_loss,
        partial(torch.optim.Adam, lr=0.01),
        [DevicePlacement("cpu", prefetch=prefetch), Batches(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
        **options,
    )


def outcome(learn, *more):
    rows = [{name: row[name] for name in row if name != "seconds"} for row in learn.history]
    weights = [tensor.tolist() for tensor in learn.model.state_dict().values()]
    clock = (learn.epoch, learn.global_step, learn.n_samples, learn.stop_reason)
    return weights, rows, learn.callbacks[Batches].sums, clock, torch.rand(()).item(), *more


def raises(error):
    def act(learn):
        raise error

    return act


ENDINGS = {
    "to the end": lambda learn: None,
    "stop": lambda learn: learn.stop("enough"),
    "fit": raises(CancelFit()),
    "epoch": raises(CancelEpoch()),
    "train": raises(CancelTrain()),
    "batch": raises(CancelBatch()),
    "validate": lambda learn: None if learn.training else raises(CancelValidate())(learn),
    "error": raises(RuntimeError("mine")),
    "Ctrl-C": raises(KeyboardInterrupt()),
}


@pytest.mark.parametrize("n", [1, 4, 11, 13, 18])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_leaves_what_it_leaves_without_and_nothing_is_fetched_ahead(monkeypatch, ending, n):
    most = []  # batches on the device at a time, in the first fit

    def run(prefetch):
        data = Noisy()
        stream = (batch for batch in DataLoader(data, SIZE))  # continues from fit to fit
        learn = make(
            At(n, ENDINGS[ending]),
            prefetch=prefetch,
            train=DataLoader(data, SIZE, shuffle=True),
            valid=DataLoader(Noisy(), SIZE),
        )
        try:
            learn.fit(2)
        except (RuntimeError, KeyboardInterrupt) as error:
            learn.error = error
        fetched, shown = data.n_fetched, repr(learn.error)
        most.append(lane.most if prefetch else 0)
        learn.data.train = stream
        learn.data.valid = None
        learn.fit(1)
        return outcome(learn, fetched, shown, data.n_fetched)

    expected = run(prefetch=False)
    lane = imitated(monkeypatch)
    assert run(prefetch=True) == expected
    assert len(lane.owned) == 2 * lane.n_begun  # inputs and targets of every batch went by the lane
    assert 1 <= most[1] <= AHEAD + 1
    assert most[1] == AHEAD + 1 or n == 1
    assert lane.n_torn == 0


@pytest.mark.parametrize("at", [1, 6, 11, 12, 16])
def test_an_interrupted_fit_resumes_with_the_same_bits(monkeypatch, tmp_path, at):
    valid = [(torch.ones(2, 3), torch.ones(2, 1))] * 2

    def run(folder, *callbacks, prefetch=True):
        learn = make(
            *callbacks, Checkpoint(tmp_path / folder, every="1 step"), prefetch=prefetch, valid=valid
        )
        learn.fit(3, resume="auto")
        return outcome(learn)

    expected = run("whole", prefetch=False)
    imitated(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("resumed", At(at, raises(KeyboardInterrupt())))
    imitated(monkeypatch)
    assert run("resumed") == expected


def test_a_ctrl_c_is_kept_with_the_batch_that_it_ended(monkeypatch, tmp_path, lane):
    import signal

    def interrupt(learn):
        signal.raise_signal(signal.SIGINT)

    def run(folder, *callbacks):
        learn = make(*callbacks, Checkpoint(tmp_path / folder, every="100 steps"))
        learn.fit(2, resume="auto")
        return outcome(learn)

    expected = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("resumed", At(7, interrupt))
    assert run("resumed") == expected


# Loaders that fill their buffers again


class Filling:
    """Gives the same two tensors for each batch, filled again."""

    def __init__(self, fill="torch"):
        self.inputs, self.targets, self.fill = torch.zeros(SIZE, 3), torch.zeros(SIZE, 1), fill

    def __iter__(self):
        for number in range(9):
            if self.fill == "torch":
                self.inputs.fill_(number / 9)
                self.targets.fill_(number)
            else:
                self.inputs.numpy()[:] = number / 9
                self.targets.numpy()[:] = number
            yield self.inputs, self.targets


@pytest.mark.parametrize("fill", ["torch", "numpy"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_loader_that_fills_its_buffers_again_is_copied_before_it_does(monkeypatch, fill, pinned):
    loader = Filling(fill)
    lane = imitated(monkeypatch, pinned=(loader.inputs, loader.targets) if pinned else ())
    learn = make(train=loader)
    learn.fit(2)
    lane.finish(10**6)
    assert lane.n_torn == 0
    assert [sums[1] for sums in learn.callbacks[Batches].sums] == [4.0 * n for n in range(9)] * 2


def pinning(collate, items):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is nothing here to pin for
        return DataLoader(TensorDataset(*items), SIZE, pin_memory=True, collate_fn=collate)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_overwritten_pinned_memory_is_an_error_with_a_hint(monkeypatch):
    inputs, targets = torch.zeros(SIZE, 3), torch.zeros(SIZE, 1)

    def collate(rows):
        torch.stack([row[0] for row in rows], out=inputs)
        torch.stack([row[1] for row in rows], out=targets)
        return inputs, targets

    imitated(monkeypatch, pinned=(inputs, targets))
    learn = make(train=pinning(collate, (torch.rand(8, 3), torch.rand(8, 1))))
    with pytest.raises(
        ValueError, match=r"overwritten the pinned memory .*buffer\.clone\(\), or leave pin_memory"
    ):
        learn.fit(1)
    assert learn.callbacks[DevicePlacement]._lane is None


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_what_a_dataloader_has_pinned_is_sent_without_a_copy_and_the_same_again_with_one(monkeypatch):
    inputs, targets = torch.rand(SIZE, 3), torch.rand(SIZE, 1)
    lane = imitated(monkeypatch, pinned=(inputs, targets))
    learn = make(train=pinning(lambda rows: (inputs, targets), (torch.rand(12, 3), torch.rand(12, 1))))
    learn.fit(1)
    assert lane.n_pinned == 4  # of three batches, the first went as it was
    assert lane.n_torn == 0


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_fresh_memory_of_a_dataloader_is_held_until_it_is_copied(monkeypatch):
    lane = imitated(monkeypatch)
    monkeypatch.setattr(lane, "is_pinned", lambda tensor: True)
    learn = make(train=pinning(None, (torch.rand(40, 3), torch.rand(40, 1))))
    learn.fit(2)
    assert lane.n_pinned == 0
    assert lane.n_torn == 0


# Batches of every kind


@pytest.mark.parametrize("kind", NESTS)
def test_every_tensor_of_a_nest_goes_by_the_lane_and_the_nest_keeps_its_types(kind):
    batch, lane = NESTS[kind](), FakeLane()
    placed = Prefetch(lane).place(batch, False, map_tensors, lambda leaf: leaf)
    before, after = list(tensors_in(batch)), list(tensors_in(placed))
    assert type(placed) is type(batch)
    plain = [tensor for tensor in before if type(tensor) is torch.Tensor]
    assert len(lane.owned) == len(plain)
    assert all(map(torch.equal, before, after))
    assert all(one is not other for one, other in zip(before, after, strict=True)) or kind == "parameter"


def test_what_is_there_already_is_not_sent_again(lane):
    learn = make(train=[(torch.ones(2, 3), torch.ones(2, 1))] * 3)
    learn.fit(1)
    assert lane.n_pinned == 6
    n_begun, there = lane.n_begun, tuple(lane.there.values())[:2]
    learn.data.train = [there] * 3
    learn.fit(1)
    assert lane.n_pinned == 6
    assert lane.n_begun == n_begun  # nothing is marked or waited for, either


def test_batches_go_by_the_lane_unless_it_is_switched_off(lane):
    learn = make(train=[(torch.ones(2, 3), torch.ones(2, 1))] * 3)
    learn.callbacks[DevicePlacement].__init__("cpu")
    learn.fit(1)
    assert lane.n_pinned == 6
    learn.callbacks[DevicePlacement].__init__("cpu", prefetch=False)
    learn.fit(1)
    assert lane.n_pinned == 6


def test_validation_goes_by_the_lane_and_the_callback_keeps_none(lane):
    learn = make(valid=DataLoader(Noisy(), SIZE))
    learn.validate()
    assert lane.n_begun == 10  # nothing is computed when the first batch comes
    learn.predict(torch.ones(2, 3))  # one batch: there is nothing to be ahead of
    assert lane.n_begun == 10
    assert learn.callbacks[DevicePlacement]._lane is None


def test_predictions_for_a_loader_go_by_the_lane_and_the_learner_can_be_copied_afterwards(lane):
    learn = make(valid=[(torch.rand(4, 3), torch.rand(4, 1)) for _ in range(5)])
    found, _ = learn.get_preds()
    assert lane.n_begun == 4
    twin = copy.deepcopy(learn)
    assert twin.callbacks[DevicePlacement]._lane is None
    learn.callbacks[DevicePlacement].__init__("cpu", prefetch=False)
    assert torch.equal(learn.get_preds()[0], found)
    assert lane.n_begun == 4


def test_on_a_cpu_prefetch_changes_nothing():
    found = []
    for prefetch in (False, True):
        learn = make(prefetch=prefetch)
        learn.fit(2)
        assert learn.callbacks[DevicePlacement]._lane is None
        found.append(outcome(learn))
    assert found[0] == found[1]


@pytest.mark.parametrize("value", [1, "yes", None])
def test_prefetch_is_true_or_false(value):
    with pytest.raises(TypeError, match=r"prefetch=.*write True or False"):
        DevicePlacement("cpu", prefetch=value)


# On a GPU: none of this has run there yet


def arrays(kind):
    inputs, targets = np.random.default_rng(0).random((640, 3), "float32"), np.ones((640, 1), "float32")
    if kind == "tensors":
        return Data.from_tensors(inputs, targets, 32, valid=None, seed=0).train
    dataset = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
    return DataLoader(dataset, 32, shuffle=True, pin_memory=kind == "pinned")


@CUDA
@pytest.mark.parametrize("kind", ["tensors", "plain", "pinned"])
def test_on_cuda_the_weights_are_those_without(kind):
    found = []
    for prefetch in (False, True):
        learn = make(train=arrays(kind))
        learn.callbacks[DevicePlacement].__init__("cuda", prefetch=prefetch)
        learn.fit(3)
        found.append([tensor.cpu() for tensor in learn.model.state_dict().values()])
    assert all(map(torch.equal, *found))


@CUDA
@pytest.mark.parametrize("prefetch", [False, True])
def test_on_cuda_no_step_of_the_defaults_waits(prefetch):
    learn = Learner(
        nn.Linear(3, 1),
        Data(arrays("pinned")),
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        [DevicePlacement("cuda", prefetch=prefetch)],
        defaults=[each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"],
    )
    fit_strictly(learn, torch.cuda.set_sync_debug_mode)


@CUDA
def test_on_cuda_a_lane_overlaps_and_its_copies_are_whole():
    lane = CudaLane(torch.device("cuda", 0))
    fetch = Prefetch(lane)
    for number in range(20):
        host = torch.full((1 << 20,), float(number))
        (there,) = fetch.place((host,), False, map_tensors, lambda leaf: leaf)
        host.zero_()
        torch.cuda._sleep(10_000_000)
        assert there.sub(number).abs().max().item() == 0
