"""Learners with bad batches, and a loss that counts how often it is waited for."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from callbacks import (
    StopOnNaN,
    ZeroGrad,
)
from learner import Data, Learner


def mse(preds, targets):
    return (preds - targets).square().mean()


def make(values, loss_func=mse, callbacks=(), lr=0.1, dtype=torch.float32):
    """A learner with one batch per value, whose inputs have that value."""
    torch.manual_seed(0)
    batches = [(torch.full((2, 1), value, dtype=dtype), torch.ones(2, 1, dtype=dtype)) for value in values]
    optimizer = partial(torch.optim.SGD, lr=lr)
    model = nn.Linear(1, 1, dtype=dtype)
    return Learner(
        model, Data(batches), loss_func, optimizer, [StopOnNaN(), *callbacks], defaults=(ZeroGrad,)
    )


def tensors_of(learn):
    return [each.detach().clone() for each in (*learn.model.parameters(), *learn.model.buffers())]


SLOW = partial(torch.optim.SGD, lr=0.1)


def normed(values, callbacks=(), optimizer=SLOW):
    """A learner whose model has statistics, which a bad batch makes NaN in the forward pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    batches = [(torch.tensor([[value], [1.0], [2.0]]), torch.ones(3, 1)) for value in values]
    return Learner(model, Data(batches), mse, optimizer, callbacks, defaults=(ZeroGrad,))
