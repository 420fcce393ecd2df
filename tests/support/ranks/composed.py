"""The learner of the tests of compositions, with or without `Distributed`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from ranks.ranked import columns, network
from torch import nn
from torch.nn import functional as F

from callbacks import Distributed
from learner import Data, Learner

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Partly(nn.Module):
    """Uses one of its two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def make(
    *callbacks: Any,
    model: Any = network,
    loss: Any = F.cross_entropy,
    kind: Any = Learner,
    size: int = 6,
    n: int = 20,
    ignored: int = 0,
    optimizer: Any = MOMENTUM,
    stream: bool = False,
    distributed: Any = None,
) -> Any:
    inputs, targets = columns(n)
    targets[:ignored] = -100
    torch.manual_seed(0)
    data = Data.from_tensors(inputs, targets, size, valid=(inputs, targets), seed=3)
    if stream:
        data = Data(partial(zip, inputs.split(size), targets.split(size)), data.valid)
    given = [Distributed(**distributed)] if distributed is not None else []
    return kind(model(), data, loss, optimizer, [*given, *callbacks])
