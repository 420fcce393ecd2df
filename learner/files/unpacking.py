"""Convert plain data back to a state. Nothing is imported by a name in the data."""

from __future__ import annotations

import array
import collections
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

KIND = "plain kind"  # the key that marks a tagged dict; a dict of the user with this key is tagged too
SCALARS = frozenset({type(None), bool, int, float, str})
DEEPEST = 100  # levels; real states have fewer than ten, and pickle and Python fail near 1000
HUGE = 1 << 2000  # torch's `weights_only` reads whole numbers of at most 255 bytes
FACTORIES: dict[str, Any] = {"None": None, "int": int, "float": float, "list": list, "dict": dict, "set": set}
DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
NUMERIC = "bBhHiIlLqQfd"


class Unpacking:
    """One walk through plain data."""

    def __init__(self) -> None:
        self.n_levels = 0
        self.done: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS or kind is Tensor:
            return value
        if kind not in (list, tuple, dict):
            raise ValueError(f"a value of type {name_of(kind)} is not supported in a checkpoint.")
        if id(value) not in self.done:
            if self.n_levels >= DEEPEST:
                raise ValueError(f"the data are nested more than {DEEPEST} levels deep.")
            self.n_levels += 1
            self.done[id(value)] = self.unpack(value)
            self.n_levels -= 1
        return self.done[id(value)]

    def unpack(self, value: Any) -> Any:
        if type(value) is not dict:
            copied = value if SCALARS.issuperset(map(type, value)) else [self.copy(item) for item in value]
            return type(value)(copied)
        if KIND not in value:
            return {key: self.copy(item) for key, item in value.items()}
        return self.untag(value)

    def untag(self, value: dict[str, Any]) -> Any:
        unpacker = UNPACKERS.get(value[KIND]) if type(value[KIND]) is str else None
        if unpacker is None:
            raise ValueError(
                f"{value[KIND]!r} is not a type that a checkpoint supports: {', '.join(UNPACKERS)}."
            )
        try:
            parts = {name: self.copy(part) for name, part in value.items() if name != KIND}
            return unpacker(**parts)
        except (TypeError, KeyError, AttributeError, RuntimeError, OverflowError, ValueError) as error:
            raise ValueError(f"the {value[KIND]} in the data cannot be made: {error}") from error


def name_of(kind: type) -> str:
    """The full name of a type."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def as_bytes(tensor: Tensor) -> bytes:
    """The bytes of `as_tensor`."""
    if type(tensor) is not Tensor or tensor.dtype is not torch.uint8:
        raise TypeError("its bytes are missing")
    return tensor.cpu().numpy().tobytes()


def make_array(value: Tensor, dtype: str, shape: tuple[int, ...]) -> Any:
    """A NumPy array."""
    if not re.fullmatch(r"[<>|=][biufc]\d{1,2}", dtype):
        raise TypeError(f"{dtype!r} is not a numeric dtype")
    return np.frombuffer(as_bytes(value), dtype=dtype).reshape(shape).copy()


def make_sparse(value: list[Tensor], shape: tuple[int, ...], coalesced: bool) -> Tensor:
    """A sparse tensor with checked indices."""
    made = torch.sparse_coo_tensor(*value, size=shape, check_invariants=True)
    return made.coalesce() if coalesced else made


def make_generator(value: Tensor, device: str) -> torch.Generator:
    """A generator with a saved state."""
    generator = torch.Generator(device)
    generator.set_state(value.cpu())
    return generator


def make_typed_array(value: Tensor, typecode: str) -> array.array[Any]:
    """An `array.array`."""
    if typecode not in NUMERIC:
        raise TypeError(f"{typecode!r} is not a numeric typecode")
    return array.array(typecode, as_bytes(value))


UNPACKERS: dict[str, Callable[..., Any]] = {
    "int": lambda value: int(value, 16),
    "dict": lambda items: dict(items),
    "OrderedDict": lambda value: collections.OrderedDict(value),
    "Counter": lambda value: collections.Counter(value),
    "defaultdict": lambda value, factory: collections.defaultdict(FACTORIES[factory], value),
    "bytes": lambda value: value.encode("latin1"),
    "bytearray": lambda value: bytearray(value.encode("latin1")),
    "complex": lambda value: complex(*value),
    "set": lambda value: set(value),
    "frozenset": lambda value: frozenset(value),
    "deque": lambda value, maxlen: collections.deque(value, maxlen),
    "array": make_array,
    "number": lambda value, dtype, shape: make_array(value, dtype, shape)[()],
    "array.array": make_typed_array,
    "sparse": make_sparse,
    "Size": lambda value: torch.Size(value),
    "dtype": lambda value: DTYPES[value],
    "device": lambda value: torch.device(value),
    "Generator": make_generator,
}
