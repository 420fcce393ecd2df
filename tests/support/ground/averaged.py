"""A model with batch norm, and a learner of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    ZeroGrad,
)
from learner import Data, Learner


def model_of(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4, momentum=0.2)]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(4, 1))


def learner_of(*callbacks: Any, data: Any = None, model: Any = None, **options: Any) -> Any:
    options.setdefault("defaults", (ZeroGrad,))
    data = data or Data(line_batches(3), line_batches(2))
    model = model or model_of()
    return Learner(
        model, data, F.mse_loss, partial(torch.optim.SGD, lr=0.1, momentum=0.9), callbacks, **options
    )
