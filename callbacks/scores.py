"""Our own metrics: how far off, and how often right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class SquaredErrors:
    """What `MSE`, `RMSE` and `R2` add up: sums over items, for each output, in float64 where there is one."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.n_items = 0
        # the first item: less that, small variances are not rounded away, and targets of one value are zeros
        self.shift: Any = 0.0
        self.squares: Any = 0.0
        self.sums: Any = 0.0
        self.square_sums: Any = 0.0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape(type(self).__name__, preds, targets)
        if self.n_items == 0 and len(targets):
            self.shift = targets[0].clone()
        self.n_items += len(targets)
        self.squares = self.squares + (preds - targets).square().sum(0)
        self.sums = self.sums + (targets - self.shift).sum(0)
        self.square_sums = self.square_sums + (targets - self.shift).square().sum(0)


class MSE(SquaredErrors):
    """Mean of the squared errors over all items and outputs; preds and targets of one shape.

    NaN where there was no item, as of the others here.
    """

    def compute(self) -> Any:
        return (self.squares / self.n_items).mean() if self.n_items else torch.tensor(math.nan)


class RMSE(MSE):
    """Root of the mean of the squared errors over all items; not the mean of the batches' roots."""

    def compute(self) -> Any:
        return super().compute().sqrt()


class R2(SquaredErrors):
    """Coefficient of determination, 1 - residual / total sum of squares; of several outputs the plain mean.

    Of targets that do not vary it is 1 where all are hit, else 0, as in scikit-learn.

    Raises:
        ValueError: fewer than two items were seen.
    """

    higher_is_better = True

    def compute(self) -> Any:
        if self.n_items < 2:
            raise ValueError(f"R2 needs at least two items, but the pass had {self.n_items}.")
        total = self.square_sums - self.sums.square() / self.n_items
        return explained(self.squares, total).mean()


class MAE:
    """Mean of the absolute errors over all items and outputs; preds and targets of one shape."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.total: Any = 0.0
        self.count = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape("MAE", preds, targets)
        self.total = self.total + (preds - targets).abs().sum()
        self.count += targets.numel()

    def compute(self) -> Any:
        return self.total / self.count if self.count else math.nan


def explained(residual: Tensor, total: Tensor) -> Tensor:
    """1 - residual / total; where the total is 0: 1 if the residual is so too, else 0. NaN stays NaN."""
    return torch.where(total <= 0, (residual == 0).to(total.dtype), 1 - residual / total)


def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    """Share of items that are classed rightly.

    Args:
        preds: scores of shape (items, classes, ...) for class numbers as targets. Of the shape of `targets`:
            logits for yes or no, where above 0 is yes (so not probabilities, which are all above 0); or
            whole numbers, which are compared as they are.
        targets: class numbers of shape (items, ...), or 0 and 1.

    Raises:
        ValueError: the shapes fit neither.
    """
    return right_answers(preds, targets).float().mean()


class Accuracy:
    """`accuracy` over a pass, counted in whole numbers: the same answers in any order give the same value."""

    higher_is_better = True

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.n_right: Any = 0
        self.n_answers = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        right = right_answers(preds, targets)
        self.n_right = self.n_right + right.sum()
        self.n_answers += right.numel()

    def compute(self) -> float:
        """NaN where every batch was empty."""
        return (
            int(self.n_right) / self.n_answers if self.n_answers else math.nan
        )  # the pass's one wait for it


accuracy.higher_is_better = True  # type: ignore[attr-defined]
accuracy.metric = Accuracy  # type: ignore[attr-defined]  # what Metrics measures in its place


def right_answers(preds: Tensor, targets: Tensor) -> Tensor:
    """For each answer of a batch, whether it is right: what `accuracy` counts, and what it refuses."""
    if preds.shape == targets.shape:
        chosen = (preds > 0).to(targets.dtype) if preds.is_floating_point() else preds
        return chosen == targets
    if preds.shape[:1] + preds.shape[2:] == targets.shape and preds.shape[1] > 1:
        return preds.argmax(1) == targets
    raise ValueError(
        f"accuracy: preds of shape {tuple(preds.shape)} against targets of shape {tuple(targets.shape)}. "
        "Give scores of shape (items, classes) for class numbers of shape (items,), or logits of the "
        "targets' own shape for yes or no, as preds.squeeze(-1)."
    )


def same_shape(title: str, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 (float32 on mps, which has no other), refused where their shapes differ."""
    if preds.shape != targets.shape:
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)} against targets of shape {tuple(targets.shape)} "
            "would be compared each with each. Give both one shape: return preds.squeeze(-1) from the model, "
            "or use targets.unsqueeze(-1)."
        )
    dtype = torch.float32 if preds.device.type == "mps" else torch.float64
    return preds.to(dtype), targets.to(dtype)
