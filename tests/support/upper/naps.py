"""A callback that sleeps."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    Callback,
)
from learner import Data, Learner

NAP = 0.002  # seconds


NAPS: list[float] = []  # measured, since naps take longer on a busy machine


def nap(seconds: float = NAP) -> None:
    begun = time.perf_counter()
    time.sleep(seconds)
    NAPS.append((time.perf_counter() - begun) * NAP / seconds)


class Sleeper(Callback):
    n_called = 0

    def after_batch(self, learn):
        self.n_called += 1
        if learn.training:
            nap()

    def after_epoch(self, learn):
        nap(3 * NAP)


class Sleepy(TensorDataset):
    def __getitem__(self, index):
        nap(NAP / 8)  # a batch has eight items
        return super().__getitem__(index)


ADAM = partial(torch.optim.Adam, lr=0.01)


def make(*callbacks, data_set=TensorDataset, optimizer=ADAM, **options):
    torch.manual_seed(0)
    inputs = torch.rand(40, 3)
    items = data_set(inputs, inputs.sum(1, keepdim=True))
    generator = torch.Generator().manual_seed(1)
    held_out = TensorDataset(torch.rand(20, 3), torch.rand(20, 1))
    data = Data(DataLoader(items, 8, shuffle=True, generator=generator), DataLoader(held_out, 8))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1))
    return Learner(model, options.pop("data", data), F.mse_loss, optimizer, callbacks, **options)
