"""The weight of a batch in a mean loss, for `Metrics`, `GradientAccumulation` and others."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.core.contract import LearnerProtocol
from callbacks.results.reductions import Count, Reduction, n_of_classes, reduction_of

Weight = Callable[[LearnerProtocol], float | Tensor]


class LossWeight:
    """The weight of the current batch: the number that the loss function divides by, or its number of items.

    Args:
        given: the user's function of the learner; it takes precedence.
        owner: the callback's class, for messages.

    Raises:
        ValueError: `given` is not a function.
    """

    def __init__(self, given: Weight | None = None, *, owner: str = "Metrics"):
        if given is not None and not callable(given):
            raise ValueError(
                f"{owner}(weight={given!r}): pass a function of the learner, such as "
                "lambda learn: (learn.targets != 0).sum()."
            )
        self.given = given
        self._loss_func: Any = self  # the loss that was examined; None at first
        self._seen: tuple[Any, bool] = (None, False)  # what else decides
        self._reduction: Reduction | None = None  # None: to be determined from the output of a batch
        self._model: Callable[[], Any] = lambda: None  # the one whose own loss was looked at

    def __reduce__(self) -> tuple[Any, ...]:
        return LossWeight, (self.given,)  # a copy examines the loss of its own learner

    def look(self, learn: LearnerProtocol) -> None:
        """Determine how the loss reduces; call it when a pass starts."""
        loss_func = learn.loss_func
        seen = (getattr(loss_func, "reduction", None), learn.loss_is_overridden)
        if loss_func is self._loss_func and loss_func is not None and seen == self._seen:
            return
        self._loss_func, self._seen = loss_func, seen
        if self.given is not None or learn.loss_is_overridden:
            self._reduction = Reduction()
        elif self._loss_func is not None:
            self._reduction = reduction_of(self._loss_func)
        elif self._model() is not learn.model:
            self._reduction = None

    def of(self, learn: LearnerProtocol) -> float | Tensor:
        """The weight of the current batch; a tensor stays on the device, without a wait."""
        if learn.loss_func is not self._loss_func:
            self.look(learn)
        if self.given is not None:
            return self.given(learn)
        weigh = (self._reduction or self._look_at_output(learn)).weigh
        if weigh is None:
            return learn.n_items
        targets = learn.targets
        found = weigh(learn.preds, *targets) if type(targets) is tuple else weigh(learn.preds, targets)
        return learn.n_items if found is None else found

    def adds_up(self, learn: LearnerProtocol) -> bool:
        """Is the loss a sum, so that the losses of several batches are added instead of averaged?"""
        if learn.loss_func is not self._loss_func:
            self.look(learn)
        return self._reduction is not None and self._reduction.adds_up

    def is_assumed(self, learn: LearnerProtocol) -> bool:
        """Is nothing known about a user's loss, so that batches are weighted by their numbers of items?"""
        if self.given is not None or learn.loss_is_overridden or learn.loss_func is None:
            return False
        return self._reduction is not None and self._reduction == Reduction()

    def _look_at_output(self, learn: LearnerProtocol) -> Reduction:
        """How the model's own `.loss` reduces, from one batch: a wait, once for each model."""
        found = reduction_of_output(learn.preds, learn.targets)
        if found is None:
            return Reduction(partial(n_labels, 1))  # 0 if there are none; the next batch may have some
        self._reduction, self._model = found, weakref.ref(learn.model)
        return found


def reduction_of_output(preds: Any, labels: Any) -> Reduction | None:
    """How a model's own loss reduces: over all labels, over those that follow another, or not known.

    Hugging Face's causal models compare each position with the next label, others with its own. The value of
    the loss shows which, because it is computed in both ways. None if it is NaN, so this batch does not show
    it.
    """
    logits, loss = getattr(preds, "logits", None), getattr(preds, "loss", None)
    if not (isinstance(loss, Tensor) and isinstance(logits, Tensor) and isinstance(labels, Tensor)):
        return Reduction()
    if labels.is_floating_point() or not labels.ndim or logits.shape[:-1] != labels.shape:
        return Reduction()
    if not math.isfinite(value := float(loss.detach())):
        return None
    apart = [abs(loss_at(logits, labels, shift) - value) for shift in range(min(labels.ndim, 2))]
    shift = apart.index(min(apart))
    return Reduction(partial(n_labels, shift)) if apart[shift] <= ROUNDING * abs(value) else Reduction()


ROUNDING = 1e-3  # of logits in half precision


@torch.no_grad()
def loss_at(logits: Tensor, labels: Tensor, shift: int) -> float:
    """The mean loss against the labels this many positions later."""
    n_positions = logits.shape[-2] - shift if shift else logits.shape[-2]
    scores = logits.narrow(-2, 0, n_positions).flatten(0, -2).float()
    return float(F.cross_entropy(scores, labels[..., shift:].flatten().long()))


def n_labels(shift: int, preds: Any, labels: Any, *more: Any) -> Count:
    """Labels that are not -100, from this position on."""
    if more or not isinstance(labels, Tensor):
        return None
    return n_of_classes({}.get, None, labels[..., shift:] if labels.ndim > 1 else labels)
