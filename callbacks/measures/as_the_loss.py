"""Metrics that read predictions and targets as the loss does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.core.warning import warn
from callbacks.results.reductions import name_of, unwrapped

#: Losses of torch that compare a number with 0 and 1, so that the threshold is 0.5.
OF_PROBABILITIES = ("binary_cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
OF_CLASSES = ("cross_entropy", "nll_loss")
#: Losses of torch whose targets may be probabilities, between 0 and 1.
OF_SOFT_TARGETS = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
MOVED = "measure preds.movedim(-1, 1), as in a function that returns accuracy(preds.movedim(-1, 1), targets)."


class AsTheLoss:
    """Knows from a loss of torch what predictions and targets mean; other losses are not known.

    Attributes:
        threshold: a prediction above it means 1: 0 for logits, 0.5 for probabilities.
        is_one_hot: are targets in the shape of the predictions probabilities of classes?
        are_soft: may targets be probabilities of 1?
        ignored: targets with this number do not count; None if the loss has no such number.
        has_warned: was there a warning of scores in two possible shapes?
    """

    threshold: float = 0.0
    is_one_hot: bool = False
    are_soft: bool = False
    ignored: int | None = None
    has_warned: bool = False

    def follow(self, loss_func: Any) -> None:
        """Look up what the loss expects; call it when a pass starts."""
        base, get = unwrapped(loss_func)
        name = name_of(base)
        self.threshold = 0.5 if name in OF_PROBABILITIES else 0.0
        self.is_one_hot, self.are_soft = name == "cross_entropy", name in OF_SOFT_TARGETS
        self.ignored = get("ignore_index", -100) if name in OF_CLASSES else None

    def read(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions as scores, of classes or with the threshold 0, and targets as whole numbers."""
        if preds.shape == targets.shape and preds.is_floating_point():
            if self.is_one_hot and preds.ndim > 1:
                return preds, targets.argmax(1)
            if self.are_soft and targets.is_floating_point():
                is_between = (targets > 0) & (targets < 1)
                targets = torch.where(is_between, (targets > 0.5).to(targets.dtype), targets)
            return preds - self.threshold if self.threshold else preds, targets
        return preds, targets

    def with_classes_second(self, preds: Tensor, targets: Tensor, fix: str = MOVED) -> Tensor:
        """Scores with the classes in dimension 1; warn once if nothing shows which dimension they are."""
        shape = preds.shape
        moved = with_classes_second(preds, targets)
        is_known = self.has_warned or self.ignored is not None or preds.ndim < 3
        if moved is preds and not is_known and shape[:-1] == targets.shape == shape[:1] + shape[2:]:
            self.has_warned = True
            warn(
                f"{type(self).__name__}: preds have shape {tuple(shape)} and targets {tuple(targets.shape)}, "
                "so the classes may be dimension 1 or the last one, and dimension 1 is read, as "
                f"cross_entropy does. If the classes are the last dimension, as in language models, {fix}"
            )
        return moved


def with_classes_second(preds: Tensor, targets: Tensor) -> Tensor:
    """Scores with the classes in dimension 1, moved there if only the last dimension can be the classes."""
    shape = preds.shape
    are_last = preds.ndim > 2 and shape[-1] > 1 and shape[:-1] == targets.shape != shape[:1] + shape[2:]
    return preds.movedim(-1, 1) if are_last else preds
