"""A tiny learner with a black box."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from callbacks import Metrics, Recorder, ZeroGrad
from callbacks.guard.blackbox import BlackBox
from learner import Data, Learner
from learner.tools import replay

read = replay.read


def mse(preds, targets):
    return (preds - targets).square().mean()


def boxed(folder, values=(1.0, 2.0, 3.0), callbacks=(), dropout=False, loss_func=mse):
    """A learner of one batch for each value, which is the first item's."""
    torch.manual_seed(0)
    batches = [(torch.tensor([[value], [1.0], [2.0]]), torch.ones(3, 1)) for value in values]
    middle = [nn.BatchNorm1d(4), nn.Dropout(0.5)] if dropout else [nn.Tanh()]
    model = nn.Sequential(nn.Linear(1, 4), *middle, nn.Linear(4, 1))
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    data = Data(batches, batches[:1])
    return Learner(
        model,
        data,
        loss_func,
        optimizer,
        [BlackBox(folder), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
