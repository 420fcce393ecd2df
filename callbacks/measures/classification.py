"""Metrics of classes: accuracy and top-k accuracy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.core.missing_names import suggest_arguments
from callbacks.core.settings import check_count
from callbacks.measures.as_the_loss import AsTheLoss, with_classes_second
from callbacks.measures.sums import Sums


def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    """Share of items that are classified correctly.

    As a metric of a learner, it reads predictions and targets as the loss does: with `binary_cross_entropy`,
    above 0.5 means 1; with `cross_entropy`, targets may be probabilities, and those that the loss ignores
    do not count. With a loss of your own, targets below 0 do not count.

    Args:
        preds: scores of shape (items, classes, ...) or (items, ..., classes) for class indices as targets.
            Or, in the shape of `targets`: binary logits, where above 0 means 1 (not probabilities, which are
            all above 0), or whole numbers, which are compared directly.
        targets: class indices of shape (items, ...), of which those below 0 do not count, or 0 and 1 if they
            are binary. If some are below 0 and none is 0, as with -1 and 1, the signs are compared; beside 0,
            those below 0 do not count.

    Raises:
        ValueError: the shapes match neither form.
    """
    preds = with_classes_second(preds, targets)
    correct = correct_predictions(preds, targets).float()
    if preds.shape != targets.shape:
        return correct.sum() / (targets >= 0).sum()
    if not are_binary_scores(preds, targets):
        return correct.mean()
    n_below, n_zeros, n_signs = signs(preds, targets)
    are_signs = (n_below > 0) & (n_zeros == 0)
    return torch.where(are_signs, n_signs / correct.numel(), correct.sum() / (correct.numel() - n_below))


class Accuracy(AsTheLoss, Sums):
    """`accuracy` over a pass, counted in whole numbers, so it is the same in any order of batches."""

    higher_is_better = True
    added = ("n_correct", "n_predictions", "signs")
    n_correct: Any = 0
    n_predictions: Any = 0
    signs: Any = 0  # of targets in the shape of the scores, see `signs`

    def update(self, preds: Tensor, targets: Tensor) -> None:
        scores = preds
        preds, targets = self.read(preds, targets)
        preds = self.with_classes_second(preds, targets)
        correct = correct_predictions(preds, targets)
        if preds.shape == targets.shape:
            self.n_predictions = self.n_predictions + correct.numel()
            if are_binary_scores(preds, targets):
                self.signs = self.signs + signs(scores, targets)
        else:  # numbers of classes
            counted = targets >= 0 if self.ignored is None else targets != self.ignored
            correct, self.n_predictions = correct & counted, self.n_predictions + counted.sum()
        self.n_correct = self.n_correct + correct.sum()

    def compute(self) -> float:
        """NaN if no target counts."""
        n_below, n_zeros, n_signs = torch.as_tensor(self.signs).expand(3).tolist()  # the pass's wait
        if n_below and not n_zeros:
            return n_signs / self.n_predictions
        n_correct, n_predictions = int(self.n_correct), int(self.n_predictions) - n_below
        return n_correct / n_predictions if n_predictions else math.nan


accuracy.higher_is_better = True  # type: ignore[attr-defined]
accuracy.metric = Accuracy  # type: ignore[attr-defined]  # what Metrics measures instead


class OfClasses(AsTheLoss, Sums):
    """Counts over targets that are numbers of classes; some may be outside the classes.

    Targets that the loss ignores do not count.
    """

    added = ("n_foreign",)
    n_foreign: Any = 0  # targets outside the classes
    n_classes: int = 0

    @suggest_arguments
    def __init__(self, ignore_index: int | None):
        self.ignore_index = ignore_index
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.n_classes = 0

    def merge(self, other: OfClasses) -> None:
        """Add what another one has counted, in another process."""
        super().merge(other)
        self.n_classes = max(self.n_classes, other.n_classes)

    def known(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which targets are used, and the targets with 0 for the others."""
        ignored = {self.ignore_index, self.ignored} - {None}
        counted, targets, n_foreign = known_classes(type(self).__name__, preds, targets, ignored)
        self.n_foreign = self.n_foreign + n_foreign
        return counted, targets

    def refuse_foreign(self) -> None:
        """Raise an error for targets outside the classes; waits for the device."""
        title, n_foreign = type(self).__name__, int(self.n_foreign)
        if n_foreign:
            raise ValueError(
                f"{title}: {n_foreign} targets of the pass are not in the classes 0 to {self.n_classes - 1}. "
                f"Give the model more outputs, or ignore these targets, as with {title}(ignore_index=-100)."
            )


class ClassMean(OfClasses):
    """A mean over targets that are not ignored: a total, their number, and the number outside the classes."""

    added = (*OfClasses.added, "total", "n_items")
    total: Any = 0
    n_items: Any = 0

    def add(self, total: Tensor, counted: Tensor) -> None:
        """Add a batch."""
        self.total = self.total + total
        self.n_items = self.n_items + counted.sum()

    def mean(self) -> float:
        """The mean over the pass; NaN if all targets are ignored."""
        self.refuse_foreign()
        n_items = int(self.n_items)
        return torch.as_tensor(self.total).item() / n_items if n_items else math.nan


class TopKAccuracy(ClassMean):
    """Share of items whose class is among the `k` with the highest scores; `top_5_accuracy` for `k=5`.

    Among equal scores the lower class index comes first, so `TopKAccuracy(1)` is `accuracy`. A score of
    NaN is never among the highest for its own class. NaN if no item counts.

    Args:
        k: how many of the best classes count, from 1 up to one less than the number of classes.
        ignore_index: targets with this number do not count, and neither do those that the loss ignores.

    Raises:
        ValueError: `k` is invalid, shapes do not fit, or (when the pass ends) targets are outside the
            classes.
    """

    higher_is_better = True

    @suggest_arguments
    def __init__(self, k: int = 5, *, ignore_index: int | None = None):
        self.k = check_count("TopKAccuracy", "k", k, 1)
        self.name = f"top_{k}_accuracy"
        super().__init__(ignore_index)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds = self.with_classes_second(preds, targets)
        counted, targets = self.known(preds, targets)
        self.n_classes = preds.shape[1]
        if self.k >= self.n_classes:
            raise ValueError(
                f"TopKAccuracy(k={self.k}): with {self.n_classes} classes, all predictions would be "
                f"correct. Choose k from 1 to {self.n_classes - 1}."
            )
        targets = targets.unsqueeze(1)
        own = preds.gather(1, targets)
        numbers = torch.arange(self.n_classes, device=preds.device).reshape(-1, *[1] * (preds.dim() - 2))
        # `not below` instead of `above`, so that NaN is ranked above
        ahead = ~(preds <= own) | ((preds == own) & (numbers < targets))
        self.add((counted & (ahead.sum(1) < self.k)).sum(), counted)

    def compute(self) -> float:
        return self.mean()


def correct_predictions(preds: Tensor, targets: Tensor) -> Tensor:
    """Which predictions of a batch are correct; checks the shapes for `accuracy`."""
    if preds.shape == targets.shape:
        chosen = (preds > 0).to(targets.dtype) if preds.is_floating_point() else preds
        return chosen == targets
    if preds.shape[:1] + preds.shape[2:] == targets.shape and preds.shape[1] > 1:
        return preds.argmax(1) == targets
    raise ValueError(
        f"accuracy: preds of shape {tuple(preds.shape)} do not match targets of shape "
        f"{tuple(targets.shape)}. Pass scores of shape (items, classes) for class indices of shape "
        "(items,). For binary targets, pass logits of the same shape, such as preds.squeeze(-1)."
    )


def are_binary_scores(preds: Tensor, targets: Tensor) -> bool:
    """Are they binary scores, whose targets can be below 0?"""
    return preds.shape == targets.shape and preds.is_floating_point() and targets.dtype.is_signed


def signs(preds: Tensor, targets: Tensor) -> Tensor:
    """The number of targets below 0, of those that are 0, and of preds with the right sign; shape (3,)."""
    correct = (preds > 0) == (targets > 0)
    return torch.stack([(targets < 0).sum(), (targets == 0).sum(), correct.sum()])


def known_classes(
    title: str, preds: Tensor, targets: Tensor, ignored: set[int | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Which targets are used, the targets with 0 for the others, and how many are outside the classes.

    The last is a number on the device: an index outside the classes would crash a kernel there, and looking
    for one would wait. `OfClasses.refuse_foreign` raises the error when the pass ends.
    """
    fits = preds.dim() > 1 and preds.shape[1] > 1 and preds.shape[:1] + preds.shape[2:] == targets.shape
    if not fits or not preds.is_floating_point() or targets.is_floating_point():
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)}, {preds.dtype}, do not match targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}. Pass scores of shape (items, classes, ...) for "
            "class indices of shape (items, ...)."
        )
    known = (targets >= 0) & (targets < preds.shape[1])
    asked = torch.ones_like(known)
    for number in ignored:
        asked = asked & (targets != number)
    counted = asked & known
    return counted, torch.where(counted, targets, 0).long(), (asked & ~known).sum()
