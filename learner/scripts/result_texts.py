"""Means and metrics over a pass that scripts contain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.measures.as_the_loss import AsTheLoss

MEAN = '''
class Mean:
    """The mean loss of a pass: each batch counts by what its own mean divides by."""

    def __init__(self):
        self.values, self.weights = [], []

    def update(self, value: torch.Tensor, weight: int) -> None:
        self.values.append(value.detach())
        self.weights.append(weight)

    def compute(self) -> float:
        values = torch.stack(self.values).tolist()  # reads the device once
        weights = [float(weight) for weight in self.weights]
        products = [a * b for a, b in zip(values, weights, strict=True) if b]
        return sum(products) / sum(weights) if products else math.nan
'''

SUM = '''
class Mean:
    """The loss of a pass: the losses of its batches are sums, so they are added."""

    def __init__(self):
        self.values = []

    def update(self, value: torch.Tensor, weight: int) -> None:
        self.values.append(value.detach())

    def compute(self) -> float:
        return sum(torch.stack(self.values).tolist())  # reads the device once
'''

MEAN_OF = '''
class MeanOf:
    """The mean over a pass of a function of predictions and targets."""

    def __init__(self, function):
        self.function, self.total, self.n_items = function, 0.0, 0

    def update(self, preds: torch.Tensor, targets: torch.Tensor) -> None:
        self.total += float(self.function(preds, targets)) * len(targets)
        self.n_items += len(targets)

    def compute(self) -> float:
        return self.total / self.n_items
'''

ACCURACY = '''
class Accuracy:
    """The share of items that are classified correctly."""

    def __init__(self):
        self.n_correct, self.n_items = 0, 0

    def update(self, preds: torch.Tensor, targets: torch.Tensor) -> None:
        if preds.shape == targets.shape:
            correct = BINARY
        else:
            correct = OF_CLASSES
        self.n_correct = self.n_correct + correct.sum()
        self.n_items += correct.numel()

    def compute(self) -> float:
        return int(self.n_correct) / self.n_items
'''

ERRORS = '''
class NAME:
    """TITLE"""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, preds: torch.Tensor, targets: torch.Tensor) -> None:
        self.total = self.total + (preds.double() - targets.double()).KIND().sum()
        self.count += targets.numel()

    def compute(self) -> torch.Tensor:
        return VALUE
'''

R2 = '''
class R2:
    """The coefficient of determination over a pass, the mean of all outputs."""

    def __init__(self):
        self.n_items, self.squares, self.sums, self.square_sums = 0, 0.0, 0.0, 0.0

    def update(self, preds: torch.Tensor, targets: torch.Tensor) -> None:
        preds, targets = preds.double(), targets.double()
        if self.n_items == 0:
            self.shift = targets[0].clone()  # so that small variances are not rounded away
        self.n_items += len(targets)
        self.squares = self.squares + (preds - targets).square().sum(0)
        self.sums = self.sums + (targets - self.shift).sum(0)
        self.square_sums = self.square_sums + (targets - self.shift).square().sum(0)

    def compute(self) -> torch.Tensor:
        total = self.square_sums - self.sums.square() / self.n_items
        exact = (self.squares == 0).double()  # of constant targets
        return torch.where(total <= 0, exact, 1 - self.squares / total).mean()
'''


def accuracy(loss_func: Any, targets: Any) -> str:
    """The source of `Accuracy` for a loss and targets like these, which a metric reads as the loss does."""
    seen = targets if isinstance(targets, Tensor) else torch.zeros(0)
    reads = AsTheLoss()
    reads.follow(loss_func)
    binary = f"(preds > {reads.threshold:g} if preds.is_floating_point() else preds) == targets"
    of_classes = "preds.argmax(1) == targets" if seen.ndim < 2 else "preds.argmax(place) == targets"
    if reads.is_one_hot and seen.is_floating_point() and seen.ndim > 1:
        binary = "preds.argmax(1) == targets.argmax(1)"
    elif seen.is_floating_point() and bool((seen < 0).any()):
        binary = "(preds > 0) == (targets > 0)"
        binary = f"({binary})[targets >= 0]" if bool((seen == 0).any()) else binary
    elif reads.ignored is None and bool((seen < 0).any()):
        of_classes = f"({of_classes})[targets >= 0]"
    elif reads.ignored is not None and bool((seen == reads.ignored).any()):
        of_classes = f"({of_classes})[targets != {reads.ignored}]"
    lines = f"correct = {of_classes}"
    if seen.ndim > 1:
        lines = f"place = 1 if preds.shape[2:] == targets.shape[1:] else -1\n            {lines}"
    return ACCURACY.replace("BINARY", binary).replace("correct = OF_CLASSES", lines)


def errors(name: str, title: str, kind: str, value: str = "self.total / self.count") -> str:
    """The source of `MSE`, `RMSE` or `MAE`."""
    return ERRORS.replace("NAME", name).replace("TITLE", title).replace("KIND", kind).replace("VALUE", value)


METRICS = {
    "Accuracy": ACCURACY,
    "MSE": errors("MSE", "The mean squared error over a pass.", "square"),
    "RMSE": errors(
        "RMSE",
        "The root of the mean squared error over a pass.",
        "square",
        "(self.total / self.count).sqrt()",
    ),
    "MAE": errors("MAE", "The mean absolute error over a pass.", "abs"),
    "R2": R2,
}
