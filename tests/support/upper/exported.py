"""Models of many kinds, and a learner of each."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import ZeroGrad
from learner import Data, Learner

sgd = partial(torch.optim.SGD, lr=0.1)


def make(model, *inputs, n_items=5, callbacks=(), targets=None, **data):
    """A learner of a model, with one batch of these inputs."""
    targets = torch.rand(n_items, 2) if targets is None else targets
    data = Data([(*inputs, targets)], n_inputs=len(inputs), **data)
    return Learner(model, data, F.mse_loss, sgd, callbacks, defaults=(ZeroGrad,))


class Decides(nn.Module):
    """Depends on a value."""

    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x
