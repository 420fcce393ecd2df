"""Interpretations of predictions that a test chooses."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from learner import Interpretation, Learner

SGD = partial(torch.optim.SGD, lr=0.1)


class Fixed(nn.Module):
    """A model that returns its inputs, so that a test chooses the predictions."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.weight


def looked_at(preds, targets, loss_func, batch_size: int = 3, **options) -> Interpretation:
    batches = list(zip(preds.split(batch_size), targets.split(batch_size), strict=True))
    return Interpretation(Learner(Fixed(), (batches, batches), loss_func, SGD), **options)


def scores(n_items: int = 20, n_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(n_classes, (n_items,), generator=generator)
    return torch.randn(n_items, n_classes, generator=generator) + 2 * F.one_hot(targets, n_classes), targets
