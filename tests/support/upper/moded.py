"""Optimizers with a training and an evaluation mode."""

from __future__ import annotations

from functools import partial

import torch
from schedule_free import ScheduleFreeSGD
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import (
    Metrics,
    Recorder,
    ZeroGrad,
)
from learner import Data, Learner

QUIET = (ZeroGrad, Metrics, Recorder)


class Flagged(SGD):
    """Keeps its mode in an attribute outside its state dict, and starts in training mode."""

    is_training = True

    @torch.no_grad()
    def _turn(self, is_training: bool) -> None:
        """In evaluation mode the weights are half as large."""
        if self.is_training is not is_training:
            self.is_training = is_training
            for each in self.param_groups[0]["params"]:
                each.mul_(2.0 if is_training else 0.5)

    def train(self):
        self._turn(True)

    def eval(self):
        self._turn(False)

    def step(self, closure=None):
        assert self.is_training
        return super().step(closure)


class Wrapped:
    """A wrapper around a schedule-free optimizer."""

    def __init__(self, params):
        self.inner = ScheduleFreeSGD(params)

    param_groups = property(lambda self: self.inner.param_groups)

    def step(self):
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()

    def train(self):
        self.inner.train()

    def eval(self):
        self.inner.eval()

    def state_dict(self):
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])


KINDS = [
    ScheduleFreeSGD,
    partial(Flagged, lr=0.05, momentum=0.9),
    Wrapped,
    [(ScheduleFreeSGD, lambda name, p: p.ndim == 2), partial(SGD, lr=0.1)],
]


def learner_of(*callbacks, optimizer=ScheduleFreeSGD, valid=True, **options) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    data = Data(line_batches(4), line_batches(2) if valid else None)
    return Learner(model, data, F.mse_loss, optimizer, callbacks, defaults=QUIET, **options)


def weights(learn) -> list[torch.Tensor]:
    return [each.detach().clone() for each in learn.model.parameters()]


def same(one, other) -> bool:
    return all(map(torch.equal, one, other))
