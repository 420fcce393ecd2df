"""The parts that the planted recipes name."""

from os import system  # noqa: F401 - planted: a recipe must not reach it

import torch
from torch import nn


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.params[0] * x + self.params[1]


class Cubic(Line):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


def raising():
    raise RuntimeError("planted")


def nothing():
    return None
