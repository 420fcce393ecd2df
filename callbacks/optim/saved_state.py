"""The state of an optimizer, and of the optimizers that it wraps, as SAM and Lookahead do, in snapshots."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from callbacks.model import shards
from callbacks.optim.optimizers import is_made, members_of
from callbacks.optim.parameter_rules import parameters_of


def wrapped_states(optimizer: Any) -> dict[str, Any]:
    """The states of wrapped optimizers that the state of the optimizer itself does not hold, by place."""
    found = list(wrapped_in(optimizer))
    if not found:
        return {}
    held = set(map(id, state_tensors(optimizer.state_dict())))
    states = {place: inner.state_dict() for place, _, inner in found}
    return {place: state for place, state in states.items() if not is_held(state, held)}


def is_held(state: Any, held: set[int]) -> bool:
    """Does a state have tensors that are all held elsewhere?"""
    tensors = [id(each) for each in state_tensors(state)]
    return bool(tensors) and held.issuperset(tensors)


def put_optimizer(optimizer: Any, state: dict[str, Any], wrapped: dict[str, Any]) -> None:
    """Load the state of an optimizer and the states of those that it wraps.

    What an optimizer shared with the one that it wraps, it shares afterwards: `load_state_dict` of torch
    gives each of them a new list of groups.
    """
    found = list(wrapped_in(optimizer))
    sharing = [share for _, outer, inner in found for share in shared(outer, inner)]
    put_state(optimizer, state)
    for place, _, inner in found:
        if place in wrapped:
            put_state(inner, wrapped[place])
    for share in sharing:
        share()


def wrapped_in(optimizer: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Optimizers that are attributes of others: the place, the one outside and the one inside."""
    for number, outer in enumerate(members_of(optimizer)):
        for name, inner in vars(outer).items() if hasattr(outer, "__dict__") else ():
            if isinstance(inner, torch.optim.Optimizer):
                inside = f"{place}{number}.{name}"
                yield inside, outer, inner
                yield from wrapped_in(inner, f"{inside}.")


def shared(outer: Any, inner: Any) -> Iterator[Callable[[], None]]:
    """Functions that let two optimizers share again what they share now: groups, state."""
    groups, own = outer.param_groups, inner.param_groups
    if groups is own:
        yield lambda: setattr(inner, "param_groups", outer.param_groups)
    elif len(groups) == len(own) and all(one is other for one, other in zip(groups, own, strict=True)):
        yield lambda: setattr(inner, "param_groups", [*outer.param_groups])
    if getattr(outer, "state", None) is inner.state:
        yield lambda: setattr(inner, "state", outer.state)


def put_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Load an optimizer's state with its original dtypes; torch alone casts it to those of the parameters."""
    optimizer.load_state_dict(copy.deepcopy(state))
    states = state["members"] if is_made(optimizer) else [state]
    for member, own in zip(members_of(optimizer), states, strict=True):
        if isinstance(member, torch.optim.Optimizer) and has_torch_form(own):
            put_dtypes(member, own)


def put_dtypes(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Convert an optimizer's state to the dtypes that it has in `state`; shard that of sharded weights."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters_of(optimizer), strict=True):
        kept, loaded = state["state"].get(number), optimizer.state.get(parameter)
        if not isinstance(kept, dict) or not isinstance(loaded, dict):
            continue
        for key, value in kept.items():
            now = loaded.get(key)
            if not isinstance(value, Tensor) or not isinstance(now, Tensor):
                continue
            if value.dtype != now.dtype:
                now = value.to(now.device, copy=True)
            loaded[key] = shards.like(now, parameter)


def has_torch_form(state: Any) -> bool:
    """Does the state of an optimizer have the form of `torch.optim.Optimizer.state_dict`?"""
    if not isinstance(state, dict) or not {"state", "param_groups"} <= set(state):
        return False
    return isinstance(state["state"], dict) and all("params" in group for group in state["param_groups"])


def state_tensors(state: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts, lists and tuples."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for each in state.values() if isinstance(state, dict) else state:
            yield from state_tensors(each)
