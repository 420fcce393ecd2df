"""Find out whether a user's loss divides by something other than its items, or sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import plain_name
from callbacks.core.warning import warn
from callbacks.measures.joined import joined, kept
from callbacks.measures.linearity import are_rows, is_pure, is_same, owner_of, quietly
from callbacks.place.device import map_tensors, tensors_in
from callbacks.results.loss_weight import LossWeight

N_BATCHES, N_NUMBERS = 8, 1 << 19  # kept for the trial, at most: batches, and numbers per batch
N_VALUES = 100  # values of targets that may be the ignored one
EXACT = 1e-4  # how close a value with another weight must be; a loss may differ by more by chance


class LossTrial:
    """Try a loss, once, on the first batches of a pass.

    The mean of a pass depends on the batches if the loss divides by the sum of a mask, or by the targets that
    are not padding, or if it sums. There is a warning only if the loss does one of these: its value on the
    batches together is found in exactly that way. A loss that compares the items of a batch with each other,
    as a contrastive one, does none of these.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._batches: list[tuple[Any, Any]] = []
        self._n_items: list[int] = []  # of each of these batches, by which the learner weighs them
        self._loss_func: Any = None
        self._versions: list[int] = []  # of the loss's own buffers when the pass started

    def __reduce__(self) -> tuple[Any, ...]:
        return LossTrial, ()

    def look(self, learn: LearnerProtocol, weight: LossWeight) -> None:
        """Find out whether to try the loss; call it when a pass starts."""
        if learn.loss_func is not self._loss_func:
            self._loss_func, self._batches, self._n_items = learn.loss_func, [], []
            self._versions = versions_of(learn.loss_func)
            can_try = learn.ranks.size == 1 and weight.is_assumed(learn)
            self.is_on = can_try and is_pure(learn.loss_func)

    def see(self, learn: LearnerProtocol) -> None:
        """Keep the first items of a batch."""
        batch = learn.preds, learn.targets
        tensors = list(tensors_in(batch))
        if not tensors or not are_rows(tensors) or learn.loss_func is not self._loss_func:
            self.is_on, self._batches, self._n_items = False, [], []
            return
        n_items = len(tensors[0])
        n_kept = min(n_items, max(1, N_NUMBERS * n_items // (sum(each.numel() for each in tensors) or 1)))
        self._batches.append(tuple(map_tensors(each, partial(first_rows, n_kept)) for each in batch))
        self._n_items.append(learn.n_items)
        self.is_on = len(self._batches) < N_BATCHES

    def report(self) -> bool:
        """Warn about a loss that is not a mean over items; return whether there was a warning.

        Call it when a pass ends.
        """
        batches, n_items = self._batches, self._n_items
        self._batches, self._n_items = [], []
        if len(batches) < 2:  # the result of a pass of one batch is right, whatever it divides by
            return False
        self.is_on = False
        if versions_of(self._loss_func) != self._versions:
            return False  # it keeps something, such as a running mean
        try:
            with quietly():
                found = reduction_found(self._loss_func, batches, n_items)
        except Exception:  # noqa: BLE001 - a loss for single batches: it shows nothing, and did its work
            return False
        name = plain_name(self._loss_func)
        title = "the loss function" if name == "<lambda>" else f"the loss {name}"
        if found == "sum":
            warn(
                f"{title} is a sum over the items of a batch, but its values for batches are averaged "
                "like means, so the result depends on the batch size. Divide by the number of items, or "
                "set the attribute reduction = 'sum' on the loss, so that its values are added up."
            )
        elif found is not None:
            warn(
                f"{title} divides by {found}, but each batch counts by its number of items, so the result "
                "of a pass depends on how the items are batched. Pass "
                f"callbacks=[Metrics(weight=lambda learn: {found})], and the same weight to "
                "GradientAccumulation."
            )
        return found is not None


def versions_of(loss_func: Any) -> list[int]:
    """How often each buffer of a loss was written to."""
    owner = owner_of(loss_func)
    if not isinstance(owner, nn.Module):
        return []
    return [each._version for each in owner.buffers() if not each.is_inference()]


def first_rows(n_rows: int, leaf: Any) -> Any:
    """A copy of the first rows of a tensor; other leaves are kept."""
    return kept(leaf[:n_rows]) if isinstance(leaf, Tensor) else leaf


def reduction_found(loss_func: Any, batches: list[tuple[Any, Any]], n_items: list[int]) -> str | None:
    """`"sum"`, or code for what a loss divides by; None if it is a mean over items, or nothing is found.

    Args:
        loss_func: the loss.
        batches: predictions and targets, each the first rows of a batch.
        n_items: of each batch, as `Data(n_items=)` counts them: the number of its nodes in a mask, perhaps.
    """
    values = [value_of(loss_func, *batch) for batch in batches]
    whole = value_of(loss_func, *together(batches))
    n_rows = [float(len(next(tensors_in(batch)))) for batch in batches]
    if is_same(whole, weighted(values, n_rows)) or is_same(whole, weighted(values, n_items), rounding=EXACT):
        return None
    if is_same(whole, sum(values), rounding=EXACT):
        return "sum"
    parts = zip(*[list(named_targets(targets)) for _, targets in batches], strict=True)
    for each in parts:
        name, tensors = each[0][0], [tensor for _, tensor in each]
        for code, weights in weights_of(name, tensors):
            if is_same(whole, weighted(values, weights), rounding=EXACT):
                return code
    return None


def together(batches: list[tuple[Any, Any]]) -> list[Any]:
    """Predictions and targets of all batches: their rows joined, or their columns if the rows are time."""
    if has_fewer_columns([{each.shape[:2] for each in tensors_in(batch)} for batch in batches]):
        turned = [map_tensors(batch, turn) for batch in batches]
        return map_tensors([joined(parts) for parts in zip(*turned, strict=True)], turn)
    return [joined(parts) for parts in zip(*batches, strict=True)]


def has_fewer_columns(shapes: list[set[torch.Size]]) -> bool:
    """Does the last batch have fewer columns and as many rows, as a smaller batch with time first has?

    Batches of sequences of different lengths also have different numbers of columns, but not only the last.
    """
    if any(len(each) > 1 for each in shapes) or len(set.union(*shapes[:-1])) > 1:
        return False
    (first,), (last,) = shapes[0], shapes[-1]
    return len(first) == len(last) == 2 and first[0] == last[0] > 1 and last[1] < first[1]


def turn(leaf: Any) -> Any:
    """A tensor with its first two dimensions swapped; other leaves are kept."""
    return leaf.transpose(0, 1) if isinstance(leaf, Tensor) else leaf


def value_of(loss_func: Any, preds: Any, targets: Any) -> float:
    """The loss of predictions and targets, which it may change in place."""
    apart = kept(targets)
    return float(loss_func(kept(preds), *apart) if type(apart) is tuple else loss_func(kept(preds), apart))


def weighted(values: list[float], weights: Sequence[float]) -> float:
    """The weighted mean, without batches that have a weight of 0."""
    total = sum(weights) or 1.0
    return sum(value * weight for value, weight in zip(values, weights, strict=True) if weight) / total


def named_targets(targets: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors among the targets, with the code to get them."""
    if isinstance(targets, Tensor):
        yield "learn.targets", targets
        return
    items = targets.items() if isinstance(targets, Mapping) else enumerate(targets or ())
    for key, each in items:
        if isinstance(each, Tensor):
            yield f"learn.targets[{key!r}]", each


def weights_of(name: str, tensors: list[Tensor]) -> Iterator[tuple[str, list[float]]]:
    """What a loss may divide by in each batch, with its code: targets that are not ignored, or a mask."""
    yield f"{name}.numel()", [float(each.numel()) for each in tensors]
    if tensors[0].is_floating_point():
        yield f"(~{name}.isnan()).sum()", [float((~each.isnan()).sum()) for each in tensors]
    elif tensors[0].dtype is not torch.bool:
        for value in torch.cat([each.flatten() for each in tensors]).unique()[:N_VALUES].tolist():
            yield f"({name} != {value}).sum()", [float((each != value).sum()) for each in tensors]
            if tensors[0].ndim > 1:  # a language model whose loss leaves out the first token
                shifted = [float((each[:, 1:] != value).sum()) for each in tensors]
                yield f"({name}[:, 1:] != {value}).sum()", shifted
    yield f"{name}.sum()", [float(each.sum()) for each in tensors]
