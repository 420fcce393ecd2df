"""Metrics that read predictions and targets as the loss does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from callbacks.results.reductions import name_of, unwrapped

#: Losses of torch that compare a number with 0 and 1, so that 0.5 is between no and yes.
OF_PROBABILITIES = ("binary_cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
OF_CLASSES = ("cross_entropy", "nll_loss")


class AsTheLoss:
    """Knows from a loss of torch what predictions and targets mean; other losses are not known.

    Attributes:
        middle: a number above it means yes: 0 for logits, 0.5 for probabilities.
        is_one_hot: are targets in the shape of the predictions probabilities of classes?
        ignored: targets with this number do not count; None if the loss has no such number.
    """

    middle: float = 0.0
    is_one_hot: bool = False
    ignored: int | None = None

    def follow(self, loss_func: Any) -> None:
        """Look up what the loss expects; call it when a pass starts."""
        base, get = unwrapped(loss_func)
        name = name_of(base)
        self.middle = 0.5 if name in OF_PROBABILITIES else 0.0
        self.is_one_hot = name == "cross_entropy"
        self.ignored = get("ignore_index", -100) if name in OF_CLASSES else None

    def read(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions as scores, of classes or with 0 between no and yes, and targets as whole numbers."""
        if preds.shape == targets.shape and preds.is_floating_point():
            if self.is_one_hot and preds.ndim > 1:
                return preds, targets.argmax(1)
            if self.middle:
                return preds - self.middle, targets
        return preds, targets
