"""Screens that keep what is written, and learners to write on them."""

import io
import re
from functools import partial

import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import Callback, Metrics, Progress, Recorder, ZeroGrad
from learner.data.data import Data
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))
HEADER = "epoch  train_loss  valid_loss         lr   time"
LINE = re.compile(r" *\d+(  +[-+.\de]+)*  +\d+\.\ds")


def make(*callbacks, train=(BATCH, BATCH), valid=(BATCH,), defaults=(Metrics, Recorder, Progress)):
    sgd = partial(torch.optim.SGD, lr=1e-3)
    data = Data(train, valid)
    return Learner(nn.Linear(1, 1), data, mse_loss, sgd, [ZeroGrad(), *callbacks], defaults=defaults)


class At(Callback):
    """A callback that calls a function in the middle of a fit."""

    def __init__(self, action, n_steps=3, name=None):
        super().__init__(name=name)
        self.action, self.n_steps = action, n_steps

    def after_batch(self, learn):
        if learn.training and learn.global_step == self.n_steps:
            self.action(learn)


def fail(learn):
    raise RuntimeError("broken")


class Screen(io.StringIO):
    """A terminal that keeps all that is written."""

    def isatty(self):
        return True

    def bars(self):
        return [
            each
            for each in re.split(r"[\r\n]", self.getvalue())
            if each.startswith("epoch") and "batch" in each
        ]

    def lines(self):
        """The lines that are on the screen at the end."""
        return [line.split("\r")[-1] for line in self.getvalue().split("\n")]
