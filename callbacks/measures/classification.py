"""Our own metrics of classes: how often right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


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
        n_right = int(self.n_right)  # the pass's one wait for it
        return n_right / self.n_answers if self.n_answers else math.nan


accuracy.higher_is_better = True  # type: ignore[attr-defined]
accuracy.metric = Accuracy  # type: ignore[attr-defined]  # what Metrics measures in its place


class TopKAccuracy:
    """Share of items whose class is among the `k` with the highest scores; `top_5_accuracy` for `k=5`.

    Of classes with the same score the lower number goes first, so `TopKAccuracy(1)` is `accuracy`. A score of
    NaN is never among the highest for its own class. NaN where no item counts.

    Args:
        k: how many classes may be named, from 1 up to one less than there are.
        ignore_index: targets of this number do not count.

    Raises:
        ValueError: `k` is no such number, shapes that do not fit, or (when the pass ends) targets beyond the
            classes.
    """

    higher_is_better = True

    def __init__(self, k: int = 5, *, ignore_index: int | None = None):
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"TopKAccuracy(k={k!r}): give a whole number of classes, from 1.")
        self.k, self.ignore_index = k, ignore_index
        self.name = f"top_{k}_accuracy"
        self.reset()

    def reset(self) -> None:
        self.n_classes = 0
        self.n_right: Any = 0
        self.n_items: Any = 0
        self.n_foreign: Any = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        counted, targets, n_foreign = known_classes("TopKAccuracy", preds, targets, self.ignore_index)
        self.n_classes = preds.shape[1]
        if self.k >= self.n_classes:
            raise ValueError(
                f"TopKAccuracy(k={self.k}): of {self.n_classes} classes each would be among them. Choose k "
                f"from 1 to {self.n_classes - 1}."
            )
        targets = targets.unsqueeze(1)
        own = preds.gather(1, targets)
        numbers = torch.arange(self.n_classes, device=preds.device).reshape(-1, *[1] * (preds.dim() - 2))
        # `not below` rather than `above`: NaN goes ahead
        ahead = ~(preds <= own) | ((preds == own) & (numbers < targets))
        self.n_right = self.n_right + (counted & (ahead.sum(1) < self.k)).sum()
        self.n_items = self.n_items + counted.sum()
        self.n_foreign = self.n_foreign + n_foreign

    def compute(self) -> float:
        refuse_foreign("TopKAccuracy", int(self.n_foreign), self.n_classes)
        n_items = int(self.n_items)
        return int(self.n_right) / n_items if n_items else math.nan


CLASSES_LAST = (
    " Where the classes stand last, as in language models, measure a function of your own that gives "
    "accuracy(preds.movedim(-1, 1), targets)."
)


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
        + (CLASSES_LAST if preds.dim() > 2 and preds.shape[:-1] == targets.shape else "")
    )


def known_classes(
    title: str, preds: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Which targets count, the targets with 0 for those that do not, and how many are beyond the classes.

    The last is a number on the device: an index beyond the classes would end the process there, and to look
    for one would wait. So it is told when the pass ends, by `refuse_foreign`.

    Raises:
        ValueError: not scores of shape (items, classes, ...) against class numbers of shape (items, ...).
    """
    fits = preds.dim() > 1 and preds.shape[1] > 1 and preds.shape[:1] + preds.shape[2:] == targets.shape
    if not fits or not preds.is_floating_point() or targets.is_floating_point():
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)}, {preds.dtype}, against targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}. Give scores of shape (items, classes, ...) for class "
            "numbers of shape (items, ...)."
        )
    known = (targets >= 0) & (targets < preds.shape[1])
    asked = torch.ones_like(known) if ignore_index is None else targets != ignore_index
    counted = asked & known
    return counted, torch.where(counted, targets, 0).long(), (asked & ~known).sum()


def refuse_foreign(title: str, n_foreign: int, n_classes: int) -> None:
    """Tell of targets beyond the classes.

    Raises:
        ValueError: there was one.
    """
    if n_foreign:
        raise ValueError(
            f"{title}: {n_foreign} targets of the pass are none of the classes 0 to {n_classes - 1}. Give "
            f"the model more outputs, or leave them out, as with {title}(ignore_index=-100)."
        )
