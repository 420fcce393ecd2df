"""A net that two optimizers train."""

from __future__ import annotations

from functools import partial

import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW, Muon

from callbacks import (
    Metrics,
    Recorder,
    ZeroGrad,
)
from learner import Data, Learner

QUIET = (ZeroGrad, Metrics, Recorder)
muon, adamw = partial(Muon, lr=0.02), partial(AdamW, lr=0.01)


def is_matrix(name, parameter):
    return parameter.ndim == 2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def learner_of(*callbacks, optimizer=None, model=None, **options) -> Learner:
    given = [(muon, is_matrix), adamw] if optimizer is None else optimizer
    data = Data(line_batches(4), line_batches(2))
    return Learner(model or net(), data, F.mse_loss, given, callbacks, defaults=QUIET, **options)


def by_hand(n_epochs: int, model=None, make=None) -> nn.Module:
    """The same training as a loop with two optimizers."""
    model = model or net()
    matrices = [each for each in model.parameters() if each.ndim == 2]
    others = [each for each in model.parameters() if each.ndim != 2]
    both = make(model) if make else [muon(matrices), adamw(others)]
    for inputs, targets in n_epochs * line_batches(4):
        F.mse_loss(model(inputs), targets).backward()
        for each in both:
            each.step()
        for each in both:
            each.zero_grad()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)
