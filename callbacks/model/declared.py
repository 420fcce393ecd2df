"""The values of the attributes that a class declares in `state`: plain, modules, optimizers, parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from callbacks.model.module_state import put_state, state_of
from callbacks.model.plain_attributes import DEEPEST, refilled

KIND = "state of"  # the key that marks the state of an object, or of a container of objects
ITEMS, TRAINED = "items", "a trained tensor"
LONGEST = 100  # longer containers hold numbers, not modules


def values_of(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    """The attributes that exist, by name; for an object with its own state, that state. No copy."""
    return {name: value_of(getattr(owner, name)) for name in names if hasattr(owner, name)}


def put_values(owner: Any, names: Iterable[str], values: dict[str, Any]) -> None:
    """Restore the values that `values_of` returned."""
    unknown = sorted(set(values) - set(names))
    if unknown:
        title = type(owner).__name__
        raise ValueError(f"{title} declares state {tuple(names)}, but also received {unknown}.")
    for name, value in values.items():
        if not is_marked(value):
            setattr(owner, name, refilled(vars(owner).get(name), value))
        elif value[KIND] == TRAINED:
            setattr(owner, name, filled(getattr(owner, name, None), value["state"]))
        elif getattr(owner, name, None) is not None:  # otherwise before_fit creates it first
            put_into(getattr(owner, name), value, f"{type(owner).__name__}.{name}")


def value_of(value: Any) -> Any:
    """The value itself, or the marked state of a module, an optimizer, a parameter, or a container."""
    if is_trained(value):
        return {KIND: TRAINED, "state": value.detach()}
    if is_stateful(value):
        state = state_of(value) if isinstance(value, nn.Module) else value.state_dict()
        return {KIND: f"{type(value).__module__}.{type(value).__qualname__}", "state": state}
    if any(is_kept(each) for _, each in items_of(value)):
        return {KIND: ITEMS, "state": {key: value_of(each) for key, each in items_of(value)}}
    return value


def put_into(there: Any, marked: dict[str, Any], place: str) -> None:
    """Load a marked state into the existing object."""
    kind, state = marked[KIND], marked["state"]
    if kind == ITEMS:
        items = dict(items_of(there))
        if items.keys() != state.keys():
            raise ValueError(f"{place} has items {list(items)}, but its saved state has {list(state)}.")
        for key, value in state.items():
            if is_marked(value) and value[KIND] == TRAINED:
                value = filled(items[key], value["state"])
                if not isinstance(there, tuple):
                    there[key] = value
            elif is_marked(value):
                put_into(items[key], value, f"{place}[{key!r}]")
            elif not isinstance(there, tuple):
                there[key] = refilled(items[key], value)
        return
    if not is_stateful(there):
        raise ValueError(
            f"{place} is {there!r}, but its saved state is of a {kind}: make such an object in __init__ or "
            "before_fit."
        )
    load = there.load_state_dict if not isinstance(there, nn.Module) else lambda kept: put_state(there, kept)
    try:
        load(state)
    except Exception as error:
        error.add_note(f"while the saved state of a {kind} was loaded into {place}")
        raise


def filled(there: Any, values: Tensor) -> Tensor:
    """The trained tensor with these values: the existing one, which an optimizer may hold, or a new one."""
    found = refilled(there, values) if is_trained(there) else values
    return there if found is there else nn.Parameter(values)


def objects_of(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    """The objects with their own state and the trained tensors among these attributes and in lists, by name.

    A property that can be assigned is not read: it is plain data, and reading it may wait for a device.
    """
    found = {}
    for name in names:
        held = getattr(type(owner), name, None)
        if isinstance(held, property) and held.fset is not None:
            continue
        found |= kept_in(getattr(owner, name, None), name)
    return found


def kept_in(value: Any, name: str, depth: int = 0) -> dict[str, Any]:
    """Such objects in a value, by name; only trained tensors in containers within a container."""
    if is_trained(value) or (depth < 2 and is_stateful(value)):
        return {name: value}
    items = items_of(value) if depth < DEEPEST else []
    return {key: each for n, item in items for key, each in kept_in(item, f"{name}.{n}", depth + 1).items()}


def is_kept(value: Any) -> bool:
    """Is its state loaded into the existing object, instead of replacing it?"""
    return is_stateful(value) or is_trained(value)


def is_stateful(value: Any) -> bool:
    """Does it have its own state, like a module, an optimizer and a scheduler?"""
    if isinstance(value, type):
        return False
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def is_trained(value: Any) -> bool:
    """Is it a tensor that an optimizer may train: an `nn.Parameter`, or another leaf with gradients?"""
    return isinstance(value, nn.Parameter) or (
        isinstance(value, Tensor) and value.is_leaf and value.requires_grad
    )


def items_of(value: Any) -> list[tuple[Any, Any]]:
    """Keys and items of a short list, tuple or dict; empty for anything else."""
    if type(value) in (list, tuple, dict) and len(value) > LONGEST:
        return []
    if type(value) in (list, tuple):
        return list(enumerate(value))
    return list(value.items()) if type(value) is dict else []


def is_marked(value: Any) -> bool:
    """Is it a state as `value_of` marks it?"""
    return type(value) is dict and value.keys() == {KIND, "state"}
