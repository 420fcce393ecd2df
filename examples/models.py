"""The article's model."""

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """`a*t**2 + b*t + c`, with a, b and c drawn from the standard normal distribution."""

    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.randn(3))  # a, b, c

    def forward(self, time: Tensor) -> Tensor:
        """Times, any shape, to speeds of that shape."""
        a, b, c = self.params
        return a * (time**2) + (b * time) + c
