"""What the tests of `GradientAccumulation` train: 22 items in batches of any sizes."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

X = torch.randn(22, 3, generator=torch.Generator().manual_seed(0)).double()
Y = X.sum(1, keepdim=True).sin()


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The items in batches of these sizes."""
    return list(zip(X[: sum(sizes)].split(sizes), Y[: sum(sizes)].split(sizes), strict=True))


def learner_of(data, *callbacks, loss_func=F.mse_loss, lr=0.1) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9)
    if not isinstance(data, Data):
        data = Data(data)
    return Learner(model, data, loss_func, optimizer, callbacks, defaults=(ZeroGrad, Metrics, Recorder))


def are_close(one: Learner, other: Learner) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in pairs)
