"""Learners whose predictions and targets have given shapes."""

from functools import partial

import torch
from torch import Tensor, nn

from callbacks import ZeroGrad
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.01)


class Shaped(nn.Module):
    """A model whose predictions have a fixed shape."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.values = nn.Parameter(torch.rand(shape))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.values * 1


def learner_of(preds: tuple[int, ...], targets: Tensor | tuple[int, ...], loss_func, **options) -> Learner:
    """A learner whose predictions and targets have these shapes."""
    if isinstance(targets, tuple):
        torch.manual_seed(1)
        targets = torch.rand(targets)
    options.setdefault("defaults", (ZeroGrad,))
    data = Data([(torch.ones(preds[0] if preds else 1, 1), targets)])
    return Learner(Shaped(preds), data, loss_func, SGD, **options)
