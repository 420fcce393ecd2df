"""A learner in double precision, and callbacks that replace a part of it in mid-fit."""

from __future__ import annotations

from functools import partial

import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import (
    Metrics,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner

N_BATCHES = 4


def doubles() -> list:
    return [(inputs.double(), targets.double()) for inputs, targets in line_batches(N_BATCHES)]


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1).double()


def learner_of(model, *callbacks, optimizer=None, loss_func=F.mse_loss, data=None, **options) -> Learner:
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    optimizer = partial(SGD, lr=0.1) if optimizer is None else optimizer
    return Learner(
        model, Data(doubles()) if data is None else data, loss_func, optimizer, callbacks, **options
    )


def at(event, epoch, batch, function, **options):
    """A callback that calls a function once, in training."""

    options.setdefault("name", f"at_{event}_{epoch}_{batch}")

    @on(event, **options)
    def act(learn):
        if learn.training and (learn.epoch, learn.batch_idx) == (epoch, batch):
            function(learn)

    return act


def after_epoch(epoch, function, **options):
    @on("after_epoch", name=f"after_epoch_{epoch}", **options)
    def act(learn):
        if learn.epoch == epoch:
            function(learn)

    return act


def assert_same(one, other) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-9, atol=1e-11, msg=f"{name} differs")


# Averages


class Running(nn.Module):
    """A model whose buffer is another tensor after each batch."""

    def __init__(self):
        super().__init__()
        self.layer = line()
        self.register_buffer("mean", torch.zeros(1).double())

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.layer(x) + self.mean


def swap_model(learn) -> None:
    learn.model = line()
    nn.init.constant_(learn.model.weight, 5)
    learn.optimizer = SGD(learn.model.parameters(), lr=1e-300)
