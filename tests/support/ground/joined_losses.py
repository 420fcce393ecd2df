"""Losses of every kind on joined data, and on the same data in batches."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N = 12
DRAW = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW).double()


def numbers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=DRAW)


def partly(classes: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    """Classes, one half of them ignored, with all those of the first items."""
    kept = classes.clone()
    kept[torch.rand(kept.shape, generator=DRAW) < 0.5] = ignored
    kept[:3] = ignored
    return kept


X = drawn(N, 4)
CLASSES, PIXELS = numbers(4, N), numbers(4, N, 5)
YES = numbers(2, N, 4).double()
PARTLY, PIXELS_PARTLY, FROM_ZERO = partly(CLASSES), partly(PIXELS), partly(CLASSES, 0)
SHARES = drawn(N, 4).softmax(1)
SIGNS = YES[:, 0] * 2 - 1
W = torch.tensor([1.0, 9.0, 2.0, 0.5]).double()


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather compile
    SCRIPTED = torch.jit.script(nn.MSELoss(reduction="sum"))


class Pixels(nn.Module):
    """Scores of shape (items, classes, pixels)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 20)

    def forward(self, x):
        return self.linear(x).unflatten(1, (4, 5))


def linear():
    return nn.Linear(4, 4)


def then(layer):
    return lambda: nn.Sequential(nn.Linear(4, 4), layer)


LOG_SHARES = then(nn.LogSoftmax(1))
DEFAULTS = (ZeroGrad, Metrics, Recorder)


# a model, its targets, and the loss
CASES = {
    "mse": (linear, X, F.mse_loss),
    "mse sum": (linear, X, nn.MSELoss(reduction="sum")),
    "mse sum in old words": (linear, X, partial(F.mse_loss, size_average=False)),
    "l1": (linear, X, nn.L1Loss()),
    "smooth l1": (linear, X, F.smooth_l1_loss),
    "huber": (linear, X, partial(F.huber_loss, delta=0.3)),
    "cross entropy": (linear, CLASSES, F.cross_entropy),
    "cross entropy, ignored": (linear, PARTLY, nn.CrossEntropyLoss()),
    "cross entropy, another ignored": (linear, FROM_ZERO, partial(F.cross_entropy, ignore_index=0)),
    "cross entropy, weights": (linear, CLASSES, nn.CrossEntropyLoss(weight=W)),
    "cross entropy, all": (linear, PARTLY, partial(F.cross_entropy, weight=W, label_smoothing=0.1)),
    "cross entropy, smooth": (linear, PARTLY, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "cross entropy, shares": (linear, SHARES, nn.CrossEntropyLoss(weight=W)),
    "cross entropy, pixels": (Pixels, PIXELS_PARTLY, nn.CrossEntropyLoss(weight=W)),
    "cross entropy sum": (linear, PARTLY, nn.CrossEntropyLoss(reduction="sum", weight=W)),
    "nll": (LOG_SHARES, PARTLY, nn.NLLLoss(weight=W)),
    "bce": (then(nn.Sigmoid()), YES, nn.BCELoss()),
    "bce, weights": (linear, YES, nn.BCEWithLogitsLoss(weight=W, pos_weight=W)),
    "kl": (LOG_SHARES, SHARES, nn.KLDivLoss()),
    "kl, batch mean": (LOG_SHARES, SHARES, partial(F.kl_div, reduction="batchmean")),
    "poisson": (linear, YES, nn.PoissonNLLLoss()),
    "soft margin": (linear, YES * 2 - 1, nn.SoftMarginLoss()),
    "multi margin": (linear, CLASSES, nn.MultiMarginLoss(weight=W)),
    "multi label": (linear, YES, nn.MultiLabelSoftMarginLoss(weight=W)),
    "multi label margin": (linear, numbers(4, N, 4), nn.MultiLabelMarginLoss()),
    "hinge": (linear, YES * 2 - 1, nn.HingeEmbeddingLoss()),
    "gaussian": (linear, (X, X.square() + 0.1), nn.GaussianNLLLoss()),
    "margin ranking": (linear, (X, YES * 2 - 1), nn.MarginRankingLoss()),
    "cosine": (linear, (X, SIGNS), nn.CosineEmbeddingLoss()),
    "triplet": (linear, (X, X.flip(0)), nn.TripletMarginLoss()),
    "triplet sum": (linear, (X, X.flip(0)), partial(F.triplet_margin_loss, reduction="sum")),
    "bound method": (linear, PARTLY, nn.CrossEntropyLoss(weight=W).forward),
    "scripted": (linear, X, SCRIPTED),
    "own": (linear, X, lambda preds, targets: (preds - targets).square().mean()),
}


def batches_of(targets, sizes):
    columns = [X, *(targets if isinstance(targets, tuple) else (targets,))]
    return list(zip(*(each.split(sizes) for each in columns), strict=True))


def learner_of(name, sizes, *callbacks, lr=0.0):
    make, targets, loss_func = CASES[name]
    torch.manual_seed(0)
    batches = batches_of(targets, sizes)
    data = Data(batches, list(batches))
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9)
    return Learner(make().double(), data, loss_func, optimizer, callbacks, defaults=DEFAULTS)


def joined(name, learn):
    """The loss of the joined data."""
    _, targets, loss_func = CASES[name]
    with torch.no_grad():
        preds = learn.model.eval()(X)
        return loss_func(preds, *(targets if isinstance(targets, tuple) else (targets,))).item()
