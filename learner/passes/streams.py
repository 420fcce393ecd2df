"""Compare what a loader keeps from pass to pass, to detect data that continues over epochs.

A loader may hold an open iterator, or count its batches, so that the next epoch starts where the last one
ended. In another process it would start with its first batch. So all fetched batches are counted, and if data
continues, `Source` fetches them again and discards them.
"""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from learner.data import workers
from learner.data.generators import PASSED_OVER, walk
from learner.data.loaders import is_open

SCALARS = (bool, int, float, str, type(None))
MOST = 100_000  # a larger array is data, and is not compared


def state_of(loader: Any) -> dict[str, Any]:
    """What may differ between two passes of a loader: numbers, strings, sizes and open iterators, by path.

    In a map-style data set only iterators count, because its items depend on their indices alone. Classes of
    torch keep nothing from pass to pass that is not in checkpoints.
    """
    is_map_style = workers.is_torchs_own(loader)
    found: dict[str, Any] = {}
    for path, part in walk(loader):
        if is_open(part):
            found[path or "itself"] = part
        elif not is_map_style or path.startswith(("sampler", "batch_sampler")):
            found |= {f"{path}.{name}": value for name, value in values_of(part)}
    return found


def values_of(part: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object as plain values."""
    if isinstance(part, types.FunctionType):
        yield from values_around(part)
        return
    kept = getattr(part, "__dict__", {})
    if type(kept) is not dict or type(part).__module__.partition(".")[0] == "torch":
        return
    slots = [name for kind in type(part).__mro__ for name in vars(kind).get("__slots__", ())]
    for name, value in [*kept.items(), *((name, getattr(part, name, None)) for name in slots)]:
        if name in PASSED_OVER or (name == "epoch" and hasattr(type(part), "set_epoch")):
            continue  # `epoch` is set in each pass
        plain = plain_of(value)
        if plain is not None:
            yield name, plain


def plain_of(value: Any) -> Any:
    """A value that can be compared: a scalar, or the size and order of a container or array; else None."""
    if isinstance(value, SCALARS):
        return value
    if type(value) is dict:
        return len(value), *((key, each) for key, each in value.items() if isinstance(each, SCALARS))
    if type(value) in (list, deque):
        return len(value), hash(tuple(each if isinstance(each, SCALARS) else id(each) for each in value))
    if type(value) is set:
        return len(value)
    if isinstance(value, Tensor):
        small = type(value) in (Tensor, nn.Parameter) and value.is_cpu and value.numel() <= MOST
        return str(value.tolist()) if small and value.layout is torch.strided else None
    if type(value).__module__ == "numpy" and getattr(value, "size", MOST + 1) <= MOST:
        return str(value.tolist())
    return None


def values_around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The plain values and iterators that a function reads from outside."""
    variables = inspect.getclosurevars(function)
    for name, value in {**variables.nonlocals, **variables.globals}.items():
        plain = value if is_open(value) else plain_of(value)
        if plain is not None:
            yield name, plain


def is_unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Is everything the same after a pass, without an open iterator?"""
    return before == after and not any(map(is_open, after.values()))


def depends_on_the_last(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Does the second pass depend on the first? Each state was taken after a pass's first batch."""
    if first.keys() != second.keys():
        return True
    return any(
        value is second[name] if is_open(value) else value != second[name] for name, value in first.items()
    )
