"""Metrics of numbers: errors, explained variance, correlation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.measures.sums import Sums


class Errors(Sums):
    """The mean over all items and outputs of a function of the errors, in float64 if the device has it."""

    higher_is_better = False
    added = ("total", "count")
    total: Any = 0.0
    count: int = 0

    def of(self, errors: Tensor) -> Tensor:
        """The numbers that are averaged."""
        raise NotImplementedError

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape(type(self).__name__, preds, targets)
        self.total = self.total + self.of(preds - targets).sum()
        self.count += targets.numel()

    def compute(self) -> Any:
        return self.total / self.count if self.count else torch.tensor(math.nan)


class MSE(Errors):
    """Mean of the squared errors over all items and outputs; NaN if there was no item.

    Raises:
        ValueError: preds and targets have different shapes.
    """

    def of(self, errors: Tensor) -> Tensor:
        return errors.square()


class RMSE(MSE):
    """Root of the mean of the squared errors over all items and outputs; NaN if there was no item.

    It differs from the mean of the RMSEs of the batches.

    Raises:
        ValueError: preds and targets have different shapes.
    """

    def compute(self) -> Any:
        return super().compute().sqrt()


class MAE(Errors):
    """Mean of the absolute errors over all items and outputs; NaN if there was no item.

    Raises:
        ValueError: preds and targets have different shapes.
    """

    def of(self, errors: Tensor) -> Tensor:
        return errors.abs()


class R2(Sums):
    """Coefficient of determination, 1 - residual / total sum of squares; for several outputs the plain mean.

    For constant targets it is 1 if all predictions are exact, otherwise 0, as in scikit-learn.

    Raises:
        ValueError: preds and targets have different shapes, batches have different outputs, or (when the pass
            ends) there were fewer than two items.
    """

    higher_is_better = True
    added = ("n_items", "shift", "squares", "sums", "square_sums")
    n_items: int = 0
    # the first item is subtracted: small variances are not rounded away, and equal targets become 0
    shift: Any = 0.0
    squares: Any = 0.0
    sums: Any = 0.0
    square_sums: Any = 0.0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape("R2", preds, targets)
        check_outputs("R2", self.shift, targets)
        if self.n_items == 0 and len(targets):
            self.shift = targets[0].clone()
        self.n_items += len(targets)
        self.squares = self.squares + (preds - targets).square().sum(0)
        self.sums = self.sums + (targets - self.shift).sum(0)
        self.square_sums = self.square_sums + (targets - self.shift).square().sum(0)

    def merge(self, other: R2) -> None:
        """Add what another one has counted, in another process."""
        if not self.n_items:
            self.shift = other.shift
        moved = other.shift - self.shift  # sums of other - shift, from sums of other - other.shift
        self.square_sums = (
            self.square_sums + other.square_sums + 2 * moved * other.sums + other.n_items * moved * moved
        )
        self.sums = self.sums + other.sums + other.n_items * moved
        self.squares, self.n_items = self.squares + other.squares, self.n_items + other.n_items

    def compute(self) -> Any:
        if self.n_items < 2:
            raise ValueError(f"R2 needs at least two items, but the pass had {self.n_items}.")
        total = self.square_sums - self.sums.square() / self.n_items
        return explained(self.squares, total).mean()


class JointSpread(Sums):
    """Sums over items of two quantities and their products, for `ExplainedVariance` and `PearsonCorr`."""

    higher_is_better = True
    added = ("n_items", "first_shift", "second_shift", "sums")
    n_items: int = 0
    first_shift: Any = 0.0  # the first item, as in `R2`
    second_shift: Any = 0.0
    sums: Any = 0.0

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add both quantities of a batch."""
        check_outputs(type(self).__name__, self.first_shift, first)
        if self.n_items == 0 and len(first):
            self.first_shift, self.second_shift = first[0].clone(), second[0].clone()
        self.n_items += len(first)
        first, second = first - self.first_shift, second - self.second_shift
        parts = (first, second, first * first, second * second, first * second)
        self.sums = self.sums + torch.stack([part.sum(0) for part in parts])

    def merge(self, other: JointSpread) -> None:
        """Add what another one has counted, in another process."""
        if not other.n_items:
            return
        if not self.n_items:
            self.first_shift, self.second_shift = other.first_shift, other.second_shift
        n, (a, b, aa, bb, ab) = other.n_items, other.sums
        x, y = other.first_shift - self.first_shift, other.second_shift - self.second_shift
        moved = (a + n * x, b + n * y, aa + 2 * x * a + n * x * x, bb + 2 * y * b + n * y * y)
        self.sums = self.sums + torch.stack((*moved, ab + x * b + y * a + n * x * y))
        self.n_items += n

    def spreads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of squares about the mean, of the first and of the second, and of their products."""
        first, second, first_squares, second_squares, products = self.sums
        return (
            (first_squares - first * first / self.n_items).clamp_min(0),
            (second_squares - second * second / self.n_items).clamp_min(0),
            products - first * second / self.n_items,
        )


class ExplainedVariance(JointSpread):
    """1 - variance of the errors / variance of the targets; for several outputs the plain mean.

    It equals `R2` if the mean of the errors is 0; an error that is equal for all items does not count. For
    constant targets it is 1 if the errors are constant too, otherwise 0, as in scikit-learn. NaN for fewer
    than two items. Preds and targets have the same shape (items, ...).

    Raises:
        ValueError: preds and targets have different shapes.
    """

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape("ExplainedVariance", preds, targets)
        self.add(targets - preds, targets)

    def compute(self) -> Any:
        if self.n_items < 2:
            return torch.tensor(math.nan)
        errors, targets, _ = self.spreads()
        return explained(errors, targets).mean()


class PearsonCorr(JointSpread):
    """Pearson's correlation of preds and targets, in [-1, 1]; for several outputs the plain mean.

    NaN if preds or targets are constant, or for fewer than two items. Both have the shape (items, ...).

    Raises:
        ValueError: preds and targets have different shapes.
    """

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.add(*same_shape("PearsonCorr", preds, targets))

    def compute(self) -> Any:
        if self.n_items < 2:
            return torch.tensor(math.nan)
        preds, targets, products = self.spreads()
        return (products / (preds.sqrt() * targets.sqrt())).clamp(-1, 1).mean()


def check_outputs(title: str, first: Any, items: Tensor) -> None:
    """Raise an error if items have other outputs than the first one, so that sums would be broadcast."""
    if isinstance(first, Tensor) and len(items) and first.shape != items.shape[1:]:
        flat = "flatten()" if items.ndim == 2 else "flatten(0, -2)"
        raise ValueError(
            f"{title}: the items of a batch have outputs of shape {tuple(items.shape[1:])}, but those of an "
            f"earlier batch {tuple(first.shape)}, and each is measured on its own. To measure the steps "
            f"of sequences all alike, define class Flat{title}({title}) with an update(self, preds, targets) "
            f"that calls super().update(preds.{flat}, targets.{flat})."
        )


def explained(residual: Tensor, total: Tensor) -> Tensor:
    """1 - residual / total; if the total is 0: 1 if the residual is 0 too, otherwise 0. NaN stays NaN."""
    return torch.where(total <= 0, (residual == 0).to(total.dtype), 1 - residual / total)


def same_shape(title: str, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 (float32 on mps), a number as one item; raises an error if their shapes differ."""
    if preds.shape != targets.shape:
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)} would be broadcast with targets of shape "
            f"{tuple(targets.shape)}. Both must have the same shape: return preds.squeeze(-1) from the "
            "model, or use targets.unsqueeze(-1)."
        )
    if preds.is_complex() or targets.is_complex():
        raise ValueError(
            f"{title}: preds are {preds.dtype} and targets {targets.dtype}, but it compares real numbers: "
            "measure their real and imaginary parts, as in torch.view_as_real(preds), or write a function."
        )
    dtype = widest(preds)
    both = preds.to(dtype), targets.to(dtype)
    return both if preds.ndim else (both[0].unsqueeze(0), both[1].unsqueeze(0))


def widest(tensor: Tensor) -> torch.dtype:
    """The dtype of sums on a tensor's device."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
