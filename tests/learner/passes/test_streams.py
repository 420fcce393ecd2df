"""Data that continues over epochs, or is assigned before each, resumes at its position."""

from __future__ import annotations

import collections
import itertools
import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from upper.continuing_data import BATCHES, ROWS, Crash, X, endless, resumed

from callbacks import Checkpoint, LearnerWarning
from learner import Data

pytestmark = pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")


class Part:
    """Two batches of a stream that stays open."""

    def __init__(self):
        self.stream = endless()

    def __iter__(self):
        return iter([next(self.stream), next(self.stream)])

    def __len__(self):
        return 2


class Lazy(Part):
    """Data that opens its stream in the first pass."""

    def __init__(self):
        self.stream = None

    def __iter__(self):
        self.stream = self.stream or endless()
        yield from itertools.islice(self.stream, 2)


class Offset:
    """Data that counts its position."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        for _ in range(2):
            self.at += 1
            yield BATCHES[self.at - 1]


class Rotating:
    """Data that rotates a deque in a slot."""

    __slots__ = ("batches",)

    def __init__(self):
        self.batches = collections.deque(BATCHES)

    def __iter__(self):
        for _ in range(3):
            self.batches.rotate(-1)
            yield self.batches[-1]


class Itself:
    """Data that is its own iterator, with its position in an array."""

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
    """Data that is shuffled with a seed that counts the passes."""

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


@pytest.mark.parametrize(("every", "step"), [("1 epoch", 4), ("1 epoch", 6), ("1 step", 2), ("1 step", 6)])
@pytest.mark.parametrize("kind", STREAMS)
def test_data_that_continues_over_epochs_resumes_at_its_position(kind, every, step, make_learner, tmp_path):
    def make(*callbacks):
        return make_learner(data=Data(STREAMS[kind]()), callbacks=callbacks)

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step)
    assert seen == expected
    assert is_equal


class Restarts:
    """Data that opens its batches again in each pass, and keeps the iterator."""

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
