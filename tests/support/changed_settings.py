"""Fits in which a setting changes in the middle, with a program and without one."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import WholeStep, ZeroGrad, on
from learner import Data, Learner

X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = list(zip(X.split(4), X.sum(1, keepdim=True).split(4), strict=True))
Model = partial(nn.Linear, 2, 1, dtype=torch.float64)


def fit(step, setting, *others, n_epochs=3, data=BATCHES):
    """A learner after a fit in which a setting changes in the middle.

    `setting` returns what makes the model, the loss, and the function that makes the change.
    """
    make_model, loss_func, change = setting()
    torch.manual_seed(0)
    act = on("before_batch", name="act")(
        lambda learn: (learn.epoch, learn.batch_idx) == (1, 2) and change(learn)
    )
    make_optimizer = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(make_model(), Data(data), loss_func, make_optimizer, [step, act, *others], defaults=())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn.fit(n_epochs)
    return learn


def is_as_ordinary(setting):
    """Compare fits with and without a program; return whether the program was used in all steps."""
    ordinary, whole = fit(ZeroGrad(), setting), fit(WholeStep("eager"), setting)
    torch.testing.assert_close(whole.model.state_dict(), ordinary.model.state_dict(), rtol=1e-9, atol=1e-12)
    return whole.callbacks[WholeStep].fallback is None


class Net(nn.Module):
    """A model that scales its output by a setting, which it reads in a given way."""

    def __init__(self, read, **held):
        super().__init__()
        self.layer = nn.Linear(2, 1).double()
        vars(self).update(held)
        self.read = read

    def forward(self, x):
        return self.layer(x) * self.read(self)


def of_model(read, change, **held):
    return partial(Net, read, **held), F.mse_loss, lambda learn: change(learn.model)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale=1.0):
        self.scale = scale


class Plain:
    def __init__(self):
        self.scale = 1.0
