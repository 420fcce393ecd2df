"""The article's learner, and data in tensors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learner import Data, Learner


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.randn(3))

    def forward(self, t: Tensor) -> Tensor:
        a, b, c = self.params
        return a * t**2 + b * t + c


def article(lr: float = 1e-5) -> Learner:
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)
    return Learner(Quadratic(), (time, speed), F.mse_loss, partial(torch.optim.SGD, lr=lr))


def tensor_data() -> Data:
    return Data.from_tensors(torch.randn(40, 3), torch.randn(40, 1), 8)
