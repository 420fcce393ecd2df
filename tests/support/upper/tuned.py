"""A learner with layer groups, and the rates that it has seen."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    Metrics,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def make(optimizer=SGD, callbacks=(), seed: int = 0, **options) -> Learner:
    torch.manual_seed(seed)
    inputs = torch.rand(40, 3)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    held_out = TensorDataset(torch.rand(10, 3), torch.rand(10, 1))
    generator = torch.Generator().manual_seed(1)
    loaders = Data(DataLoader(data, 8, shuffle=True, generator=generator), DataLoader(held_out, 8))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    options.setdefault("splitter", lambda model: [model[0], model[3]])
    return Learner(model, loaders, F.mse_loss, optimizer, callbacks, **options)


class Seen:
    """The settings of each group at each step."""

    def __init__(self):
        self.rates: list[list[float]] = []
        self.momentums: list[float] = []

    def callback(self):
        @on("after_step")
        def look(learn):
            groups = learn.optimizer.param_groups
            self.rates.append([group["lr"] for group in groups])
            self.momentums.append(groups[0]["momentum"])

        return look
