"""Data that continues over epochs, or is assigned before each, resumes at its position."""

from __future__ import annotations

import collections
import itertools
import random
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from callbacks import Callback, Checkpoint, LearnerWarning, ShortEpoch
from learner import Data, TensorLoader

X = torch.arange(48.0).view(48, 1) / 48
ROWS = TensorDataset(X, X)
BATCHES = [(x, x) for x in X.split(4)]

pytestmark = pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")


def endless():
    """An endless stream of batches."""
    return itertools.cycle(BATCHES)


class Part:
    """Two batches of a stream that stays open."""

    def __init__(self):
        self.stream = endless()

    def __iter__(self):
        return iter([next(self.stream), next(self.stream)])

    def __len__(self):
        return 2


class Lazy(Part):
    """Opens its stream in the first pass."""

    def __init__(self):
        self.stream = None

    def __iter__(self):
        self.stream = self.stream or endless()
        yield from itertools.islice(self.stream, 2)


class Offset:
    """Counts its position."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        for _ in range(2):
            self.at += 1
            yield BATCHES[self.at - 1]


class Rotating:
    """Rotates a deque in a slot."""

    __slots__ = ("batches",)

    def __init__(self):
        self.batches = collections.deque(BATCHES)

    def __iter__(self):
        for _ in range(3):
            self.batches.rotate(-1)
            yield self.batches[-1]


class Itself:
    """Its own iterator, with its position in an array."""

    def __init__(self):
        self.at = torch.zeros((), dtype=torch.long)

    def __iter__(self):
        self.left = 2
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.at += 1
        return BATCHES[self.at - 1]


class Epochs:
    """Shuffles with a seed that counts its passes."""

    def __init__(self):
        self.n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        return iter(random.Random(self.n_passes).sample(BATCHES, 3))


class OwnOrder(Sampler):
    """A sampler with its own epoch."""

    def __init__(self):
        self.n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        return iter(random.Random(self.n_passes).sample(range(48), 12))

    def __len__(self):
        return 12


class Open(IterableDataset):
    """An iterable data set whose stream stays open."""

    def __init__(self):
        self.stream = iter(zip(X, X, strict=True))

    def __iter__(self):
        return itertools.islice(self.stream, 8)


class Virtual(Dataset):
    """A map-style data set that returns the next item for any index."""

    def __init__(self):
        self.stream = iter(zip(X, X, strict=True))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return next(self.stream)


def nonlocal_stream():
    stream = endless()

    def two_batches():
        yield next(stream)
        yield next(stream)

    return two_batches


def nonlocal_counter():
    at = 0

    def two_batches():
        nonlocal at
        at += 2
        yield from BATCHES[at - 2 : at]

    return two_batches


STREAMS = {
    "an iterator that is held": Part,
    "one that is opened in the first pass": Lazy,
    "a counter": Offset,
    "a deque": Rotating,
    "its own iterator": Itself,
    "an order by pass": Epochs,
    "a sampler with an order by pass": lambda: DataLoader(ROWS, 4, sampler=OwnOrder()),
    "an iterable data set": lambda: DataLoader(Open(), 4),
    "a map-style data set": lambda: DataLoader(Virtual(), 4),
    "a function over an iterator": nonlocal_stream,
    "a function over a counter": nonlocal_counter,
}


class Crash(Callback):
    """Ends the run after an update."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def after_step(self, learn):
        if learn.global_step == self.step:
            raise RuntimeError("crash")


def resumed(make, folder, every, step, n_epochs=4, *callbacks, **options):
    """The batches of a whole run and of a resumed one, and whether both end with the same weights."""
    seen = []

    class Seen(Callback):
        def before_batch(self, learn):
            seen.append((learn.epoch, round(48 * learn.inputs[0][0].item())))

    whole = make(Seen, *callbacks)
    whole.fit(n_epochs)
    expected, saving = list(seen), partial(Checkpoint, folder, every=every)
    with pytest.raises(RuntimeError, match="crash"):
        make(saving(), *callbacks).fit(n_epochs, callbacks=[Crash(step)])
    seen.clear()
    again = make(Seen, saving(), *callbacks)
    again.fit(n_epochs, resume="must")
    assert 0 < len(seen) < len(expected)
    return expected[-len(seen) :], seen, torch.equal(again.model.weight, whole.model.weight)


@pytest.mark.parametrize(("every", "step"), [("1 epoch", 4), ("1 epoch", 6), ("1 step", 2), ("1 step", 6)])
@pytest.mark.parametrize("kind", STREAMS)
def test_data_that_continues_over_epochs_resumes_at_its_position(kind, every, step, make_learner, tmp_path):
    def make(*callbacks):
        return make_learner(data=Data(STREAMS[kind]()), callbacks=callbacks)

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step)
    assert seen == expected
    assert is_equal


class Restarts:
    """Opens its batches again in each pass, and keeps the iterator."""

    n_asked = 0

    def __iter__(self):
        Restarts.n_asked += 1
        self.left = iter(BATCHES[:3])
        return self

    def __next__(self):
        return next(self.left)


def test_data_that_restarts_in_each_pass_is_not_fetched_again(make_learner, tmp_path, capsys):
    def make(*callbacks):
        Restarts.n_asked = 0
        return make_learner(data=Data(Restarts()), callbacks=callbacks)

    expected, seen, _ = resumed(make, tmp_path / "run", "1 epoch", 8)
    assert seen == expected
    assert Restarts.n_asked == 2  # epochs 2 and 3
    assert "fetched again" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [DataLoader(ROWS, 8, shuffle=True), BATCHES, lambda: iter(BATCHES)])
def test_ordinary_data_resumes_without_a_warning(data, make_learner, tmp_path, capsys):
    def make(*callbacks):
        return make_learner(data=Data(data), callbacks=callbacks)

    expected, seen, is_equal = resumed(
        make, tmp_path / "run", "1 epoch", 8 if isinstance(data, DataLoader) else 14
    )
    assert seen == expected
    assert is_equal
    assert "fetched again" not in capsys.readouterr().out


def test_a_stream_that_is_ahead_of_the_checkpoint_is_reported(make_learner, tmp_path):
    learn = make_learner(data=Data(Part()), callbacks=[Checkpoint(tmp_path / "run")])
    with pytest.raises(RuntimeError, match="crash"):
        learn.fit(4, callbacks=[Crash(5)])
    with pytest.warns(LearnerWarning, match="has yielded more than when the checkpoint was saved"):
        learn.fit(4, resume="must")


# A new loader for each epoch


class Grow(Callback):
    """4, 8, 16 items in a batch."""

    def before_epoch(self, learn):
        learn.data.train = TensorLoader((X, X), 4 * 2**learn.epoch, shuffle=True, seed=learn.epoch)


class GrowInPlace(Callback):
    def before_epoch(self, learn):
        learn.data.train.batch_size *= 2


class GrowFromTheLast(Callback):
    def before_epoch(self, learn):
        learn.data.train = TensorLoader((X, X), 2 * learn.data.train.batch_size)


class GrowLoader(Callback):
    def before_epoch(self, learn):
        learn.data.train = DataLoader(ROWS, 4 * 2**learn.epoch, shuffle=True)


class Shrink(Sampler):
    """Fewer items in each epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 48 >> self.epoch

    def __iter__(self):
        return iter(range(len(self)))


@pytest.mark.parametrize(
    ("every", "step"), [("3 steps", 8), ("3 steps", 20), ("1 epoch", 14), ("1 epoch", 20)]
)
@pytest.mark.parametrize("grow", [Grow, GrowInPlace, GrowFromTheLast, GrowLoader])
def test_epochs_of_growing_batches_resume_at_their_position(grow, every, step, make_learner, tmp_path):
    def make(*callbacks):
        size = 2 if grow in (GrowInPlace, GrowFromTheLast) else 4
        return make_learner(data=Data(TensorLoader((X, X), size)), callbacks=[grow, *callbacks])

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step, 3)
    assert seen == expected
    assert is_equal


@pytest.mark.parametrize(("every", "step"), [("5 steps", 14), ("1 epoch", 20)])
def test_a_sampler_whose_length_depends_on_the_epoch_resumes(every, step, make_learner, tmp_path):
    def make(*callbacks):
        return make_learner(data=Data(DataLoader(ROWS, 4, sampler=Shrink())), callbacks=callbacks)

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step, 3)
    assert seen == expected
    assert is_equal


@pytest.mark.parametrize("every", ["1 step", "1 epoch"])
def test_resuming_is_refused_if_assigned_data_is_missing(every, make_learner, tmp_path):
    class Once(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.data.train = TensorLoader((X[:24], X[:24]), 4)

    def make():
        return make_learner(
            data=Data(TensorLoader((X, X), 4)), callbacks=[Once, Checkpoint(tmp_path, every=every)]
        )

    with pytest.raises(RuntimeError, match="crash"):
        make().fit(4, callbacks=[Crash(20)])
    with pytest.raises(
        ValueError, match=r"training data that differs from that of epoch 2 now[\s\S]*n_items: 24, 48"
    ):
        make().fit(4, resume="must")


def test_a_short_epoch_of_an_endless_stream_resumes_at_its_position(make_learner, tmp_path):
    class Endless:
        def __init__(self):
            self.stream = endless()

        def __iter__(self):
            return self.stream

    def make(*callbacks):
        return make_learner(data=Data(Endless()), callbacks=[ShortEpoch(2), *callbacks])

    expected, seen, _ = resumed(make, tmp_path / "run", "1 epoch", 6)
    assert seen == expected


def test_the_first_save_of_batches_in_a_list_raises_no_warning(make_learner, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(data=Data(BATCHES), callbacks=[Checkpoint(tmp_path / "run")]).fit(2)


def test_a_function_that_reads_a_class_of_iterators_is_not_a_stream(make_learner, tmp_path):
    def batches():
        yield from pairwise(torch.rand(4, 2, 1).unbind())

    learn = make_learner(data=Data(batches), callbacks=[Checkpoint(tmp_path / "run")])
    assert len(learn.fit(2)) == 2
