"""Optimizers that are not part of torch."""

from __future__ import annotations

import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from callbacks import (
    DevicePlacement,
    Metrics,
    Recorder,
    StopOnNaN,
    ZeroGrad,
)
from learner import Data, Learner

QUIET = (ZeroGrad, Metrics, Recorder, DevicePlacement, StopOnNaN)


class Both:
    """Two optimizers combined, with a state dict of another form."""

    def __init__(self, parameters):
        parameters = list(parameters)
        self.each = [
            SGD([p for p in parameters if p.ndim == 2], lr=0.01, momentum=0.9),
            AdamW([p for p in parameters if p.ndim != 2], lr=0.01),
        ]

    @property
    def param_groups(self):
        return [group for one in self.each for group in one.param_groups]

    def step(self):
        for one in self.each:
            one.step()

    def zero_grad(self):
        for one in self.each:
            one.zero_grad()

    def state_dict(self):
        return {"each": [one.state_dict() for one in self.each]}

    def load_state_dict(self, state):
        for one, its in zip(self.each, state["each"], strict=True):
            one.load_state_dict(its)


def learner_of(*callbacks, optimizer=Both, model=None, **options) -> Learner:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    data = Data(line_batches(4), line_batches(2))
    return Learner(model, data, F.mse_loss, optimizer, callbacks, defaults=QUIET, **options)


def weights(learn) -> list[torch.Tensor]:
    return [each.detach().clone() for each in learn.model.parameters()]


def same(one, other) -> bool:
    return all(map(torch.equal, one, other))
