"""Batches and data sets of many kinds."""

from __future__ import annotations

import collections
import dataclasses
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset

from callbacks import Callback, DevicePlacement, Metrics, Recorder, ZeroGrad
from learner import Learner


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor


class Unknown(IterableDataset):
    """A stream of seven items without a length."""

    def __iter__(self):
        for n in range(7):
            yield torch.full((3,), float(n)), torch.ones(1)


class Items(Dataset):
    def __init__(self, n=7):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, n):
        return torch.full((3,), float(n)), torch.ones(1)


class Counts(Callback):
    """Count the items of each pass."""

    def before_fit(self, learn):
        self.batches, self.items = collections.Counter(), collections.Counter()

    def after_batch(self, learn):
        self.batches[learn.training] += 1
        self.items[learn.training] += learn.n_items


class Keyed(nn.Linear):
    def forward(self, x):
        return super().forward(x)


def x(n=4):
    return torch.rand(n, 3)


def y(n=4):
    return torch.rand(n, 1)


def fit(data, model=None, loss_func=F.mse_loss, n_epochs=2):
    counts = Counts()
    learn = Learner(
        model or Keyed(3, 1),
        data,
        loss_func,
        partial(torch.optim.SGD, lr=0.01),
        [counts],
        defaults=(ZeroGrad, DevicePlacement("cpu"), Metrics, Recorder),
    )
    learn.fit(n_epochs)
    return learn, counts
