"""Histories for tests: written by hand, or of a tiny fit."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import History, Metrics, Recorder, ZeroGrad
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


def history_of(*rows, losses=()):
    history = History()
    for loss in losses:
        history.add_step(loss, 0.1)
    for row in rows:
        history.add_epoch(row, 0.5)
    return history


def made(defaults=(Metrics, Recorder)):
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(nn.Linear(1, 1), ([BATCH], [BATCH]), mse_loss, sgd, [ZeroGrad()], defaults=defaults)


def fitted(n_epochs=3, defaults=(Metrics, Recorder)):
    return made(defaults).fit(n_epochs)
