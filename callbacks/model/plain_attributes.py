"""Tensors that modules keep in plain attributes, like the hidden state of a recurrent model."""

from __future__ import annotations

import copy
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.model.named import named_tensors

OF_MODULES = frozenset(vars(nn.Module()))  # what torch keeps in every module
LONGEST = 100  # longer containers hold data
LARGEST = 10_000  # elements of a NumPy array; larger ones are data
DEEPEST = 4
NOT_KEPT = "not kept"  # a placeholder for a value that a file cannot hold: the attribute is left unchanged
QUIET = (type(None), bool, int, float)


def plain_state(module: nn.Module, without: Iterable[Tensor] = ()) -> dict[str, Any]:
    """The attributes that hold tensors, by module and name, detached and not copied.

    An attribute that holds None, numbers or an empty container is included: a hidden state may be that before
    the first batch. Tensors that share memory with a parameter or buffer, or with the tensors of `without`,
    are left out, because they follow those.
    """
    found = dict(attributes(module))
    own = {key for key, value in found.items() if holds_tensors(value)}
    if own:
        memory = memory_of([*named_tensors(module).values(), *without])
        own = {key for key in own if not any(each in memory for each in memory_of(tensors_in(found[key])))}
    seen: dict[int, Tensor] = {}  # a tensor in two places stays one

    def detached(tensor: Tensor) -> Tensor:
        return seen.setdefault(id(tensor), tensor.detach())

    return {
        key: mapped(value, detached) if key in own else value
        for key, value in found.items()
        if key in own or is_value(value)
    }


def put_plain(
    module: nn.Module,
    state: dict[str, Any],
    without: Iterable[Tensor] = (),
    numbers: Collection[str] | None = None,
) -> None:
    """Restore the attributes as `plain_state` found them; the state stays usable.

    A list, a dict, and a tensor that is trained, as one that an optimizer holds, are changed in place;
    another tensor is replaced, on the model's device. An attribute that was created since, with tensors or a
    number, is removed. If `numbers` are the keys of numbers, flags and Nones, the others are settings, and
    are left unchanged.
    """
    device = next((each.device for each in module.parameters()), None)
    now, modules = plain_state(module, without), dict(module.named_modules())
    seen: dict[int, Tensor] = {}
    for key in {**state, **now}:
        path, _, name = key.rpartition(".")
        if path not in modules or type(state.get(key)) is str:
            continue
        owner = vars(modules[path])
        if is_value(state.get(key)) and is_value(owner.get(name)):
            if key in state and (numbers is None or key in numbers):
                put_value(owner, name, state[key])
            elif key not in state and numbers is None and type(owner[name]) in QUIET:
                del owner[name]
        elif holds_tensors(state.get(key)):
            there = owner.get(name)
            owner[name] = refilled(there, renewed(state[key], there, device, seen))
        elif holds_tensors(now.get(key)) and key in state:
            found = mapped(state[key], torch.clone)  # None, a number, an empty container
            owner[name] = refilled(owner[name], found)
        elif holds_tensors(now.get(key)):
            del owner[name]


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The plain attributes of all modules by key. Of torch's own modules only tensors may be state."""
    for key, owner, name in places(module):
        value = vars(owner)[name]
        of_torch = type(owner).__module__.startswith("torch.")
        if not of_torch or (holds_tensors(value) and not any(each.grad_fn for each in tensors_in(value))):
            yield key, value


def places(module: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Each plain attribute: its key, its module, its name."""
    return [
        (f"{path}.{name}" if path else name, owner, name)
        for path, owner in module.named_modules()
        for name in vars(owner)
        if name not in OF_MODULES
    ]


def renewed(then: Any, there: Any, device: Any, seen: dict[int, Tensor]) -> Any:
    """A copy of a value, for the place of another one."""
    trained = [each for each in tensors_in(there) if each.requires_grad and each.is_leaf]
    kept = list(tensors_in(then))
    if trained and [each.shape for each in trained] == [each.shape for each in kept]:
        with torch.no_grad():
            for tensor, value in zip(trained, kept, strict=True):
                tensor.copy_(value)
        return there

    def copied(tensor: Tensor) -> Tensor:
        if id(tensor) not in seen:
            is_elsewhere = device is None or tensor.device.type != "cpu"
            seen[id(tensor)] = tensor.detach().to(tensor.device if is_elsewhere else device, copy=True)
        return seen[id(tensor)]

    return mapped(then, copied)


def put_value(owner: dict[str, Any], name: str, value: Any) -> None:
    """Set a value of numbers; if it is equal, the object stays the same."""
    if name not in owner or mark_of(owner[name]) != mark_of(value):
        owner[name] = refilled(owner.get(name), copy.deepcopy(value))


def refilled(there: Any, value: Any) -> Any:
    """The existing list, dict, deque or trained tensor with these values, since others may hold it.

    For anything else it is the value itself.
    """
    if isinstance(there, Tensor):
        is_trained = there.requires_grad and there.is_leaf and isinstance(value, Tensor)
        return filled(there, value) if is_trained else value
    if type(there) is type(value) is tuple and len(there) == len(value):
        return tuple(map(refilled, there, value))
    if there is value or type(there) is not type(value) or type(value) not in CONTAINERS[1:]:
        return value
    if isinstance(there, dict):
        items = {key: refilled(there.get(key), each) for key, each in value.items()}
        there.clear()
        there.update(items)
    else:
        items = [refilled(there[n] if n < len(there) else None, each) for n, each in enumerate(value)]
        there.clear()
        there.extend(items)
    return there


def filled(there: Tensor, values: Tensor) -> Tensor:
    """A trained tensor with these values if it has their shape, and otherwise the values."""
    if there is values or there.shape != values.shape:
        return values
    with torch.no_grad():
        there.copy_(values)
    return there


def is_value(value: Any, depth: int = 0) -> bool:
    """Is it None, a flag, a number, a small NumPy array of numbers, or a short container of these?"""
    if is_numpy(value):
        return value.dtype.kind in "biufc" and value.size <= LARGEST
    if type(value) not in CONTAINERS:
        return type(value) in QUIET
    items = value.values() if isinstance(value, dict) else value
    is_short = depth < DEEPEST and len(value) <= LONGEST
    return is_short and has_plain_keys(value) and all(is_value(each, depth + 1) for each in items)


def is_numpy(value: Any) -> bool:
    """Is it an array or a number of NumPy?"""
    return type(value).__module__ == "numpy" and hasattr(value, "tobytes") and hasattr(value, "dtype")


def has_plain_keys(value: Any) -> bool:
    """Can a file hold its keys, if it is a dict?"""
    return not isinstance(value, dict) or all(type(key) in (*QUIET, str) for key in value)


def mark_of(value: Any) -> str:
    """A text that differs if the value does."""
    if is_numpy(value):
        return f"{value.dtype.str} {value.shape} {zlib.crc32(value.tobytes())}"
    if type(value) not in CONTAINERS:
        return repr(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return f"{type(value).__name__} {[(key, mark_of(each)) for key, each in pairs]}"


def is_storable(value: Any) -> bool:
    """Can a file hold it: a tensor, a number, text, or a plain container of these?"""
    if isinstance(value, Tensor):
        return type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
    if type(value) in CONTAINERS:
        items = value.values() if isinstance(value, dict) else value
        return has_plain_keys(value) and all(map(is_storable, items))
    return type(value) is str or is_value(value)


def holds_tensors(value: Any) -> bool:
    """Is it a tensor with values, or a short container of tensors?"""
    return any(True for _ in tensors_in(value))


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors of a value, in order."""
    if isinstance(value, Tensor):
        if not is_lazy(value) and not value.is_meta:
            yield value
    elif depth < DEEPEST:
        for each in items_of(value):
            yield from tensors_in(each, depth + 1)


CONTAINERS = (tuple, list, dict, OrderedDict, deque)


def items_of(value: Any) -> list[Any]:
    """The items of a short container; empty for anything else."""
    if is_record(value):
        return [getattr(value, each.name, None) for each in fields(value)]
    is_container = type(value) in CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_fields"))
    if not is_container or len(value) > LONGEST:
        return []
    return list(value.values() if isinstance(value, dict) else value)


def is_record(value: Any) -> bool:
    """Is it an instance of a dataclass?"""
    return hasattr(type(value), "__dataclass_fields__")


def mapped(value: Any, function: Callable[[Tensor], Tensor], depth: int = 0) -> Any:
    """A copy of a value, with `function` applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    items = items_of(value) if depth < DEEPEST else []
    news = [mapped(each, function, depth + 1) for each in items]
    if is_record(value):
        made = copy.copy(value)
        for field, new in zip(fields(value), news, strict=True):
            object.__setattr__(made, field.name, new)  # past the `__setattr__` of a frozen one
        return made
    if isinstance(value, dict):
        return type(value)(zip(value, news, strict=True)) if news else copy.copy(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*news)
    if type(value) is deque:
        return deque(news, value.maxlen)
    return type(value)(news) if type(value) in CONTAINERS and len(news) == len(value) else value


def memory_of(tensors: Iterable[Tensor]) -> set[int]:
    """The addresses of the memory of tensors; nothing for a tensor without memory."""
    plain = [each for each in tensors if each.layout is torch.strided and not is_lazy(each)]
    return {each.untyped_storage().data_ptr() for each in plain if each.numel()}
