"""Losses with parameters and buffers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import (
    Callback,
)
from learner import Data, Learner

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1, keepdim=True)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


class Weighted(nn.Module):
    """The squared error with a trained variance (Kendall et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(1))

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(preds, targets) * torch.exp(-self.s[0]) + self.s[0]


class Running(nn.Module):
    """A loss scaled by a running mean in a buffer, with its own dropout."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(1))
        self.drop = nn.Dropout(0.5)

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        error = self.drop((preds - targets) ** 2).mean()
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * error.detach())
        return error / self.mean[0]


class Crash(Callback):
    def after_step(self, learn: Any) -> None:
        if learn.global_step == 5:
            raise SystemExit


def make(loss: Any, *callbacks: Any, optimizer: Any = SGD, **options: Any) -> Learner:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return Learner(
        model,
        Data.from_tensors(INPUTS, TARGETS, 8, seed=0),
        loss() if isinstance(loss, type) else loss,
        optimizer,
        callbacks,
        **options,
    )


def module_of(learn: Learner) -> nn.Module:
    found: Any = learn.loss_func
    found = getattr(found, "func", found)
    return getattr(found, "__self__", found)


def values(learn: Learner) -> list[Tensor]:
    return [each.clone() for part in (learn.model, module_of(learn)) for each in part.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))
