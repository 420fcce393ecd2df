"""Workers that all iterate over the whole of an iterable data set are reported once."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from callbacks import LearnerWarning
from learner import Data, Learner

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
ITEMS = [(x, x.sum(0, keepdim=True)) for x in X]


class Stream(IterableDataset):
    """Yields all items in each worker, or a share of them."""

    def __init__(self, items=ITEMS, *, shares=False):
        self.items, self.shares = items, shares

    def __iter__(self):
        worker = get_worker_info()
        return iter(self.items[worker.id :: worker.num_workers] if self.shares else self.items)


class Shuffled(Stream):
    """The same, in an order that each worker draws."""

    def __iter__(self):
        items = list(super().__iter__())
        return iter([items[n] for n in torch.randperm(len(items)).tolist()])


def fit(loader, valid=None):
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(nn.Linear(3, 1), Data(loader, valid), F.mse_loss, sgd)
    learn.fit(2)
    return learn


@pytest.mark.parametrize("n_items", [12, 4])
def test_items_that_come_from_each_worker_raise_one_warning(n_items):
    loader = DataLoader(Stream(ITEMS[:n_items]), 4, num_workers=2)
    with pytest.warns(LearnerWarning, match="training data, .* yields each item 2 times per pass") as caught:
        learn = fit(loader)
    assert len(caught) == 1
    assert learn.n_samples == 2 * 2 * n_items


@pytest.mark.parametrize("is_function", [False, True])
def test_items_that_come_from_each_worker_in_another_order_raise_one_warning(is_function):
    loader = DataLoader(Shuffled(), 5, num_workers=2)
    expected = "yields each item 2 times per pass: its workers yield the same items in different"
    with pytest.warns(LearnerWarning, match=expected) as caught:
        fit((lambda: loader) if is_function else loader)
    assert len(caught) == 1


def test_items_of_validation_that_come_from_each_worker_raise_a_warning():
    valid = DataLoader(Stream(), 4, num_workers=2)
    with pytest.warns(LearnerWarning, match="the validation data, .* yields each item 2 times"):
        fit([(X, X[:, :1])], valid)


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        (Stream(shares=True), {"num_workers": 2}),
        (Stream(), {"num_workers": 1}),
        (Shuffled(shares=True), {"num_workers": 2}),
        (Shuffled(ITEMS * 2, shares=True), {"num_workers": 2}),
        (Shuffled([(torch.full((3,), n % 2.0), torch.ones(1)) for n in range(32)]), {"num_workers": 2}),
        (Stream(ITEMS[:1] * 8), {"num_workers": 2}),
        (Stream([(torch.ones(3), torch.ones(1))] * 8), {"num_workers": 2}),
    ],
    ids=["shares", "shuffled", "shuffled twice", "bits", "one worker", "one item again", "constant"],
)
def test_other_streams_raise_no_warning(stream, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        fit(DataLoader(stream, 2, **options))
