"""A learner for searches of a batch size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from learner import Data, Learner

N_ITEMS = 600


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.Linear(64, 1))


def tensors(n: int = N_ITEMS):
    inputs = torch.rand(n, 8, generator=torch.Generator().manual_seed(0))
    return inputs, inputs.sum(1, keepdim=True)


def make(model=None, *callbacks, data=None, optimizer=torch.optim.AdamW, **options) -> Learner:
    torch.manual_seed(0)
    data = data or Data.from_tensors(*tensors(), batch_size=32, valid=(tensors(20)), seed=0)
    return Learner(model or wide(), data, F.mse_loss, optimizer, callbacks, **options)
