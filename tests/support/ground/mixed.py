"""Learners on images, for callbacks that mix them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import (
    CutMix,
    LabelMix,
    Metrics,
    MixUp,
    Recorder,
    ZeroGrad,
)
from learner import Data, Learner

KINDS = [MixUp, CutMix, LabelMix]


def images(n_batches: int = 3, batch_size: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n_batches, batch_size, 2, 6, 8, generator=generator)
    classes = torch.randint(3, (n_batches, batch_size), generator=generator)
    return list(zip(inputs, classes, strict=True))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 3))


def learner_of(*callbacks: Any, loss: Any = F.cross_entropy, data: Any = None, **options: Any) -> Any:
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    model = options.pop("model", None) or model_of()
    data = data or Data(images(), images(1))
    return Learner(model, data, loss, partial(torch.optim.SGD, lr=0.1), callbacks, **options)
