"""A `StopIteration` of a data set is an error with its place; the end of a loader is not an error."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny import line_batches, notes
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from callbacks import LearnerWarning
from learner import Data

EMPTY = iter(())


class Rows(Dataset):
    """A data set that raises `StopIteration` at item 4."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(1) + (next(EMPTY) if index == 4 else 0), torch.ones(1)


class Ones(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(1), torch.ones(1)


class Together(Ones):
    def __getitems__(self, indices):
        if 4 in indices:
            next(EMPTY)
        return [self[index] for index in indices]


class Stream(IterableDataset):
    """An iterator that overrides `__next__`, and ends correctly."""

    def __iter__(self):
        self.n = 0
        return self

    def __next__(self):
        self.n += 1
        return self.give()

    def give(self):
        if self.n > 8:
            raise StopIteration
        return torch.ones(1), torch.ones(1)


class Own:
    """A loader whose `__next__` has another name, as after a decorator."""

    def __iter__(self):
        self.left = [*line_batches(2)]
        return self

    def following(self):
        if not self.left:
            raise StopIteration
        return self.left.pop()

    __next__ = following


def collate(items, calls=[]):  # noqa: B006 - it counts
    calls.append(1)
    return default_collate(items) if len(calls) % 2 else next(EMPTY)


def transform(batch, calls=[]):  # noqa: B006 - it counts
    calls.append(1)
    return batch if len(calls) % 2 else next(EMPTY)


LEAKS = {
    "__getitem__": (lambda: DataLoader(Rows(), 2), r"Rows.__getitem__ .*while fetching the items \[4, 5\]"),
    "__getitem__ without batches": (lambda: DataLoader(Rows(), batch_size=None), "the items 4 of"),
    "__getitems__": (lambda: DataLoader(Together(), 4), r"Together.__getitems__ .*\[4, 5, 6, 7\]"),
    "collate_fn": (lambda: DataLoader(Ones(), 2, collate_fn=collate), "collate .*test_stop_iteration.py"),
    "collate_fn of a stream": (lambda: DataLoader(Stream(), 2, collate_fn=collate), "raised by collate "),
    "map": (lambda: lambda: map(transform, line_batches(3)), "raised by transform "),
    "a worker": (lambda: DataLoader(Rows(), 2, num_workers=1), r"(?s)worker process.*__getitem__"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_stop_iteration_in_code_of_the_user_is_an_error_with_its_place(kind, make_learner):
    make, words = LEAKS[kind]
    learn = make_learner(data=Data(make()))
    with pytest.raises(RuntimeError, match=words) as caught:
        learn.fit(2)
    assert "epoch 0/2, fetching batch" in notes(caught.value)


def test_a_stop_iteration_in_validation_and_prediction_is_an_error(make_learner):
    learn = make_learner(data=Data(line_batches(2), DataLoader(Rows(), 2)))
    for call in (lambda: learn.fit(1), learn.validate, learn.get_preds):
        with pytest.raises(RuntimeError, match=r"StopIteration was raised by Rows\.__getitem__"):
            call()


ENDS = {
    "data set": lambda: DataLoader(Ones(), 3),
    "data set in workers": lambda: DataLoader(Ones(), 3, num_workers=1),
    "drop_last": lambda: DataLoader(Ones(), 3, drop_last=True),
    "stream": lambda: DataLoader(Stream(), 3),
    "stream without batches": lambda: DataLoader(Stream(), batch_size=None),
    "stream, drop_last": lambda: DataLoader(Stream(), 3, drop_last=True),
    "its own next": Own,
    "map of a loader": lambda: lambda: map(tuple, DataLoader(Ones(), 3)),
    "generator": lambda: lambda: (batch for batch in line_batches(2)),
}


@pytest.mark.parametrize("kind", ENDS)
def test_the_end_of_a_loader_is_not_an_error(kind, make_learner):
    learn = make_learner(data=Data(ENDS[kind]()), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(2)
    assert learn.epoch == 1
