"""Merge what a metric has counted in several processes that train together."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from callbacks.measures.metric_states import put_state, state_of
from callbacks.place.device import map_tensors


def check_merges(name: str, metric: Any) -> None:
    """Raise an error for a metric whose states of several processes cannot be merged.

    Raises:
        TypeError: it is neither one of torchmetrics nor has a method `merge`.
    """
    if not (hasattr(metric, "modules") and parts_of(metric)) and not callable(getattr(metric, "merge", None)):
        kind = type(metric).__name__
        raise TypeError(
            f"the metric {name}: {kind} has no method merge, so the results of several processes cannot "
            f"be combined. Add def merge(self, other), which adds the counts of another {kind} to this "
            "one, as in self.total += other.total; or pass a function of (preds, targets), or whole_pass."
        )


def parts_of(metric: Any) -> list[Any]:
    """The metrics of torchmetrics in a metric: itself, and those that it holds."""
    return [each for each in metric.modules() if hasattr(each, "_reductions")]


def own_state(metric: Any) -> Any:
    """What this process has counted, on the CPU, to send to the others."""
    if hasattr(metric, "modules") and (parts := parts_of(metric)):
        if hasattr(metric, "items"):
            metric.items()  # copies the states that metrics of a collection share
        state: Any = [{**each.metric_state, "_update_count": each._update_count} for each in parts]
    else:
        state = state_of(metric)
    return map_tensors(state, lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf)


def merge_into(metric: Any, states: list[Any], device: torch.device) -> None:
    """Merge the states of all processes into a metric.

    Args:
        metric: is overwritten.
        states: what `own_state` returned in each process that has seen a batch, in the order of ranks.
        device: where the state of the metric belongs.
    """
    if hasattr(metric, "modules") and (parts := parts_of(metric)):
        for part, *found in zip(parts, *states, strict=True):
            reduce_into(part, found, device)
        return
    first, *others = states
    put_state(metric, first, device)
    for each in others:
        other = copy.deepcopy(metric)
        put_state(other, each, device)
        metric.merge(other)


def reduce_into(metric: Any, states: list[dict[str, Any]], device: torch.device) -> None:
    """Set a metric of torchmetrics to several states, by the reductions that it declares."""
    used = [each for each in states if each["_update_count"]] or states[:1]
    metric._update_count = sum(each["_update_count"] for each in states)
    metric._computed = None
    for name, reduction in metric._reductions.items():
        value = reduced([each[name] for each in used], reduction)
        setattr(metric, name, map_tensors(value, lambda leaf: leaf.to(device)))


def reduced(values: list[Any], reduction: Any) -> Any:
    """One value from the values of several processes; lists are joined."""
    if any(isinstance(each, list) for each in values):
        return [item for each in values for item in (each if isinstance(each, list) else [each])]
    if len(values) == 1:
        return values[0]
    if getattr(reduction, "__name__", "") == "dim_zero_cat":
        return torch.cat([torch.atleast_1d(each) for each in values])
    stacked = torch.stack(values)
    return stacked if reduction is None else reduction(stacked)


def without_own_sync(metric: Any) -> None:
    """Let metrics of torchmetrics compute without their own collective operations."""
    if hasattr(metric, "modules"):
        for each in parts_of(metric):
            each.sync_on_compute = each._to_sync = False
