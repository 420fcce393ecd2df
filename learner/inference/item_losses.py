"""The loss of each item of a batch."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.place.device import map_tensors
from callbacks.results.reductions import name_of, reduction_of, unwrapped, within
from learner.data.tensors import describe
from learner.inference.gathering import has_rows
from learner.state.protocol import FullLearner

TOLERANCE = 1e-3  # of the comparison with the loss of the batch, relative


class ItemLosses:
    """Computes the loss of each item of a batch whose output is there.

    If the loss function has a `reduction`, its values with `reduction="none"` are taken. An item with several
    elements gets their mean, without those that `ignore_index` leaves out, or their sum if the loss sums.
    Otherwise the loss function is called for each item alone.
    """

    def __init__(self, learn: FullLearner):
        self._function = None if learn.loss_is_overridden else without_reduction(learn.loss_func)
        base, self._setting = unwrapped(learn.loss_func)
        self._ignores = name_of(base) in ("cross_entropy", "nll_loss")
        is_batchmean = self._setting("reduction", "") == "batchmean"
        self._adds_up = reduction_of(learn.loss_func).adds_up or is_batchmean
        self._is_checked = False

    def of(self, learn: FullLearner) -> Tensor:
        """The losses of the current batch, shape (items,).

        Raises:
            ValueError: a single item has no loss; the message has the reason.
        """
        try:
            if self._function is not None:
                found = self._all_at_once(learn)
                if found is not None:
                    return found
                self._function = None
            return self._one_by_one(learn)
        except Exception as error:
            learn.loop.place.note_operation_error(error, "compute_loss")  # for the notes of the error
            raise

    def _all_at_once(self, learn: FullLearner) -> Tensor | None:
        targets = learn.targets if type(learn.targets) is tuple else (learn.targets,)
        assert self._function is not None
        try:
            values = self._function(learn.preds, *targets)
        except (TypeError, ValueError, NotImplementedError, KeyError):
            return None  # it has no "none"; an error with another reason is raised for the items
        if not has_rows(values, learn.n_items):
            return None
        if values.ndim == 1:
            return values
        counts = torch.ones_like(values, dtype=torch.bool)
        if self._ignores and isinstance(targets[0], Tensor) and targets[0].shape == values.shape:
            counts = targets[0] != self._setting("ignore_index", -100)
        if self._adds_up:
            return values.flatten(1).sum(1)
        return (values * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)

    def _one_by_one(self, learn: FullLearner) -> Tensor:
        n_items, kept = learn.n_items, (learn.inputs, learn.preds, learn.targets)
        try:
            losses = [loss_of_batch(learn) for _ in items_of(learn, n_items)]
        finally:
            learn.inputs, learn.preds, learn.targets = kept
        found = torch.stack(losses)
        if not self._is_checked and n_items > 1:
            self._is_checked = True
            check_losses(found, loss_of_batch(learn))
        return found


def without_reduction(loss_func: Any) -> Callable[..., Any] | None:
    """The loss function with `reduction="none"`; None if it has no such setting."""
    inner: Any = loss_func if isinstance(loss_func, partial) else within(loss_func)
    if isinstance(inner, nn.Module):
        if not isinstance(getattr(inner, "reduction", None), str):
            return None
        inner = copy.copy(inner)  # its parameters are the same
        vars(inner)["reduction"] = "none"
        return inner
    try:
        names = inspect.signature(inner).parameters
    except (TypeError, ValueError):  # none, or a builtin's
        return None
    return partial(inner, reduction="none") if "reduction" in names else None


def items_of(learn: FullLearner, n_items: int) -> Iterator[int]:
    """Go through the items of a batch: inputs, output and targets are those of one item at a time."""
    inputs, preds, targets = learn.inputs, learn.preds, learn.targets
    parted = with_items(preds, targets)
    is_joined = parted is not preds and len(parted) == n_items
    for number in range(n_items):
        learn.inputs, learn.targets = (one_of(each, number, n_items) for each in (inputs, targets))
        learn.preds = parted[number] if is_joined else one_of(preds, number, n_items)
        if learn.loss_func is None and not learn.loss_is_overridden:
            learn.loop.do["forward"](learn)  # the model computes the loss
        yield number


def with_items(preds: Any, targets: Any) -> Any:
    """An output as (items, steps, classes) if it is (items * steps, classes) for targets (items, steps)."""
    if not (isinstance(preds, Tensor) and isinstance(targets, Tensor) and preds.ndim and targets.ndim > 1):
        return preds
    are_joined = len(targets) != len(preds) == targets.numel()
    return preds.unflatten(0, (len(targets), -1)) if are_joined else preds


def one_of(nest: Any, number: int, n_items: int) -> Any:
    """A batch of one of its items; what has no item dimension stays as it is."""

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or n_items not in leaf.shape[:2]:
            return leaf
        return leaf.narrow(leaf.shape[:2].index(n_items), number, 1)

    if type(nest) is tuple:
        return tuple(one_of(each, number, n_items) for each in nest)
    if type(nest) is list and len(nest) == n_items and not all(has_rows(each, n_items) for each in nest):
        return [nest[number]]
    return map_tensors(nest, rows)


def loss_of_batch(learn: FullLearner) -> Tensor:
    """The loss of the inputs, output and targets that are there."""
    learn.loop.do["compute_loss"](learn)
    loss = learn.loss_grad
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(
            f"get_preds(with_loss=True): the loss is {describe(loss)} in evaluation mode, not one number, "
            "so that items have no loss."
        )
    return loss.detach().reshape(())


def check_losses(losses: Tensor, whole: Tensor) -> None:
    """Raise an error if the loss of a batch is neither a mean nor the sum of the losses of its items."""
    low, high, total, batch = (float(each) for each in (losses.min(), losses.max(), losses.sum(), whole))
    margin = TOLERANCE * max(abs(low), abs(high), abs(batch))
    is_mean = low - margin <= batch <= high + margin
    is_sum = abs(batch - total) <= TOLERANCE * max(abs(total), abs(batch))
    if is_mean or is_sum or not all(map(math.isfinite, (low, high, batch))):
        return
    raise ValueError(
        f"get_preds(with_loss=True): the loss of a batch is {batch:.4g}, but its items alone have losses "
        f"from {low:.4g} to {high:.4g}. It depends on the items together, as a contrastive loss does, so "
        "a single item has no loss of its own. Leave with_loss out."
    )
