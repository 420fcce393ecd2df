"""Batches of uneven size, and fits on them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

DEFAULTS = (ZeroGrad, Recorder)


def uneven_batches(*sizes: int, n_outputs: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, generator=generator), torch.randn(n, n_outputs, generator=generator))
        for n in sizes
    ]


def class_batches(*sizes: int, n_classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, generator=generator), torch.randint(n_classes, (n,), generator=generator))
        for n in sizes
    ]


def regress(*metrics, on="valid", train=(4, 3), valid=(5, 2, 1), n_outputs=1, callbacks=(), n_epochs=1):
    torch.manual_seed(0)
    data = Data(
        uneven_batches(*train, n_outputs=n_outputs), uneven_batches(*valid, n_outputs=n_outputs, seed=1)
    )
    learn = Learner(
        nn.Linear(3, n_outputs),
        data,
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        callbacks=[Metrics(*metrics, on=on), *callbacks],
        defaults=DEFAULTS,
    )
    learn.fit(n_epochs)
    return learn
