"""Precision, recall and F1 from counts of classes."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.core.missing_names import suggest_arguments
from callbacks.measures.classification import OfClasses


class ClassCounts(OfClasses):
    """Counts the true, predicted and actual positives of each class, for `Precision`, `Recall` and `F1`."""

    higher_is_better = True
    added = (*OfClasses.added, "counts")
    counts: Any = 0  # true, predicted and actual positives, shape (3, classes)

    @suggest_arguments
    def __init__(
        self,
        average: Literal["binary", "macro", "micro"] | None = "binary",
        *,
        ignore_index: int | None = None,
    ):
        self.average = average
        super().__init__(ignore_index)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = self.read(preds, targets)
        is_binary = preds.shape == targets.shape
        n_classes = 2
        if is_binary:
            predicted, counted, targets, n_foreign = binary(preds, targets, self.ignore_index)
            self.n_foreign = self.n_foreign + n_foreign
        else:
            preds = self.with_classes_second(preds, targets)
            counted, targets = self.known(preds, targets)
            predicted, n_classes = preds.argmax(1), preds.shape[1]
        self._check(n_classes, is_binary)
        self.n_classes = n_classes
        pairs = ((targets, counted & (predicted == targets)), (predicted, counted), (targets, counted))
        self.counts = self.counts + torch.stack([count(*pair, n_classes) for pair in pairs])

    def compute(self) -> Any:
        self.refuse_foreign()
        counts = torch.as_tensor(self.counts).cpu().double()  # the pass's wait
        if not counts.any():
            return math.nan
        if self.average == "binary":
            return self.score(*counts[:, 1])
        if self.average == "micro":
            return self.score(*counts.sum(1))
        if self.average == "macro":
            return self.score(*counts[:, counts.sum(0) > 0]).mean()
        return self.score(*counts)

    def score(self, true: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """The score of each class, from its numbers of true, predicted and actual positives."""
        raise NotImplementedError

    def _check(self, n_classes: int, is_binary: bool) -> None:
        title = type(self).__name__
        if self.n_classes and n_classes != self.n_classes:
            raise ValueError(
                f"{title}: scores of {n_classes} classes after scores of {self.n_classes}. All batches of "
                "a pass must have the same classes."
            )
        if self.average == "binary" and n_classes != 2:
            raise ValueError(
                f"{title}(average='binary') is for two classes, but there are scores of {n_classes}. "
                f"Choose {title}('macro'), {title}('micro') or {title}(None)."
            )
        if self.average != "binary" and is_binary:
            raise ValueError(
                f"{title}(average={self.average!r}): preds of the same shape as the targets are binary. "
                f"Use {title}('binary'), or pass scores of shape (items, classes). For several labels per "
                "item, use torchmetrics.classification."
            )


class Precision(ClassCounts):
    """Precision: of the items that are predicted to be of a class, the share that is of this class.

    Preds are scores of shape (items, classes, ...) for class indices of shape (items, ...). With "binary"
    preds can also have the shape of the targets, which are 0 and 1: logits, where above 0 means 1, or the
    whole numbers 0 and 1. With several labels per item, all predictions are counted together. As a metric of
    a learner, it takes preds as probabilities if the loss does, as `binary_cross_entropy`, and with
    `cross_entropy` targets may be probabilities of classes.

    As in scikit-learn, the value is 0 if the denominator is 0: the precision of a class that is never
    predicted, the recall of a class that is never a target, and the F1 of both. NaN if no target counts.

    Args:
        average: "binary" is the value of class 1 of two; "macro" is the plain mean over the classes, without
            those that occur neither in the targets nor in the predictions; "micro" counts all classes
            together, which is `accuracy`; None returns a list with a number for each class.
        ignore_index: targets with this number do not count, and neither do those that the loss ignores.

    Raises:
        ValueError: the average is unknown, shapes do not fit it, or (when the pass ends) targets are outside
            the classes.
    """

    def score(self, true: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """True positives / predicted positives."""
        return true / predicted.clamp_min(1)


class Recall(ClassCounts):
    """Recall: of the items of a class, the share that is predicted to be of this class.

    Averages, shapes, absent classes and errors are those of `Precision`.
    """

    def score(self, true: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """True positives / actual positives."""
        return true / actual.clamp_min(1)


class F1(ClassCounts):
    """F1: the harmonic mean of precision and recall.

    "macro" is the mean of the classes' own F1. Averages, shapes, absent classes and errors are those of
    `Precision`.
    """

    def score(self, true: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """2 true positives / (predicted positives + actual positives)."""
        return 2 * true / (predicted + actual).clamp_min(1)


def binary(preds: Tensor, targets: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predictions, which of them are used, targets (both as 0 and 1), and how many are neither 0 nor 1."""
    known = (targets == 0) | (targets == 1)
    asked = torch.ones_like(known) if ignore_index is None else targets != ignore_index
    predicted = preds > 0
    if not preds.is_floating_point():
        known, predicted = known & ((preds == 0) | (preds == 1)), preds == 1
    counted = asked & known
    return predicted.long(), counted, (counted & (targets == 1)).long(), (asked & ~known).sum()


def count(classes: Tensor, counted: Tensor, n_classes: int) -> Tensor:
    """How many of each class count; `bincount` would wait for the device to find the largest."""
    zeros = torch.zeros(n_classes, dtype=torch.int64, device=classes.device)
    return zeros.scatter_add(0, classes.flatten(), counted.flatten().long())
