"""A model that applies a function, and the joined outputs of its batches."""

from functools import partial

import torch
from torch import nn

from learner import Data, Learner


class Model(nn.Module):
    """A model that applies a function to the batch, whose items are numbered over the whole pass."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(1)), function

    def forward(self, x):
        return self.function(x)


def joined(function, sizes, targets=lambda x: x, **settings):
    """Predictions and targets of batches of these sizes; item n of the pass is the number n."""
    items = torch.arange(sum(sizes)).float()[:, None]
    batches = [(x, targets(x)) for x in items.split(sizes)]
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(Model(function), Data(batches, batches), lambda p, t: p, sgd).get_preds(**settings)
