"""Convert a state to plain data, which a file can contain without naming code, and back."""

from __future__ import annotations

import array
import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from learner.files.unpacking import (
    DEEPEST,
    FACTORIES,
    HUGE,
    KIND,
    NUMERIC,
    SCALARS,
    Unpacking,
    name_of,
)

FIX = (
    "Keep numbers, strings, tensors and containers of them in `state`, or give the callback its own "
    "`state_dict`."
)


def to_plain(value: Any, where: str) -> Any:
    """Copy a state into None, bool, int, float, str, tensors, lists, tuples and dicts.

    A value of another supported type (bytes, sets, deques, arrays, NumPy's numbers, generators, ...) becomes
    a small dict with its type. An object that occurs twice is one object in the copy too.

    Args:
        value: the state, as from a `state_dict`.
        where: its place, for errors, such as `"callbacks.early_stopping"`.

    Returns:
        The copy. Tensors are detached and stay on their device; if they are not views, they share memory.

    Raises:
        TypeError: a value is not supported, or contains itself; the message has its place.
    """
    return _Packing(where).copy(value)


def from_plain(value: Any) -> Any:
    """Convert the result of `to_plain` back. Nothing is imported by a name in the data.

    Raises:
        ValueError: it is not a result of `to_plain`.
    """
    return Unpacking().copy(value)


class _Packing:
    """One walk through a state."""

    def __init__(self, where: str):
        self.where = where
        self.path: list[Any] = []
        self.under_way: set[int] = set()
        self.done: dict[int, tuple[Any, Any]] = {}  # keep the original too, so that its id is not reused

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return tagged("int", hex(value)) if kind is int and not -HUGE < value < HUGE else value
        if id(value) in self.done:
            return self.done[id(value)][1]
        if id(value) in self.under_way:
            self.refuse("contains itself")
        if len(self.path) >= DEEPEST:
            self.refuse(f"is nested more than {DEEPEST} levels deep")
        self.under_way.add(id(value))
        packed = self.pack(value)
        self.under_way.remove(id(value))
        self.done[id(value)] = (value, packed)
        return packed

    def pack(self, value: Any) -> Any:
        packer = PACKERS.get(type(value))
        if packer is not None:
            return packer(self, value)
        if type(value) is np.ndarray or isinstance(value, np.generic):
            return self.of_numpy(value)
        return self.refuse(f"is of type {name_of(type(value))}, which a checkpoint cannot contain")

    def of_list(self, value: list[Any]) -> list[Any]:
        return list(value) if is_simple(value) else self.items(enumerate(value))

    def of_tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.of_list(list(value)))

    def items(self, pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
        """Copy the values; an error in one of them has its key."""
        return [self.item(key, value) for key, value in pairs]

    def item(self, key: Any, value: Any) -> Any:
        self.path.append(key)
        copied = self.copy(value)
        self.path.pop()
        return copied

    def of_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        for key in value:
            self.check_key(key)
        copied = dict(zip(value, self.items(value.items()), strict=True))
        return {KIND: "dict", "items": list(copied.items())} if KIND in copied else copied

    def check_key(self, key: Any, n_levels: int = 0) -> None:
        if type(key) is tuple and n_levels < DEEPEST:
            for part in key:
                self.check_key(part, n_levels + 1)
        elif type(key) not in SCALARS or not is_simple([key]):
            self.refuse(f"has a key of type {name_of(type(key))}, which a checkpoint cannot contain")

    def of_default(self, value: collections.defaultdict[Any, Any]) -> dict[str, Any]:
        for name, factory in FACTORIES.items():
            if value.default_factory is factory:
                return tagged("defaultdict", self.of_dict(value), factory=name)
        return self.refuse(
            f"is a defaultdict of {value.default_factory!r}, which a checkpoint cannot contain (only "
            f"those of {', '.join(FACTORIES)})"
        )

    def of_set(self, value: set[Any] | frozenset[Any]) -> dict[str, Any]:
        return tagged(type(value).__name__, self.of_list(list(value)))

    def of_tensor(self, value: Tensor) -> Any:
        if value.layout is torch.sparse_coo:
            parts = [part.detach() for part in (value._indices(), value._values())]
            return tagged("sparse", parts, shape=tuple(value.shape), coalesced=value.is_coalesced())
        if value.is_meta:
            self.refuse("is a tensor without values (on `meta`), which a checkpoint cannot contain")
        if value.layout is not torch.strided or value.is_quantized or value.is_nested:
            kind = "nested" if value.is_nested else value.dtype if value.is_quantized else value.layout
            self.refuse(f"is a tensor of kind {kind}, which a checkpoint cannot contain")
        plain = value.detach().resolve_conj().resolve_neg()
        # torch.save writes the whole storage of a view; an expanded tensor has more items than its storage
        is_whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
        return plain if is_whole else plain.clone()

    def of_numpy(self, value: Any) -> dict[str, Any]:
        if value.dtype.kind not in "biufc":
            self.refuse(
                f"is a NumPy array or number of dtype {value.dtype}, which a checkpoint cannot contain"
            )
        kind = "array" if type(value).__name__ == "ndarray" else "number"
        return tagged(kind, as_tensor(value.tobytes()), dtype=value.dtype.str, shape=tuple(value.shape))

    def of_array(self, value: array.array[Any]) -> dict[str, Any]:
        if value.typecode not in NUMERIC:
            self.refuse(f"is an array of typecode {value.typecode!r}, which a checkpoint cannot contain")
        return tagged("array.array", as_tensor(memoryview(value).cast("B")), typecode=value.typecode)

    def refuse(self, what: str) -> NoReturn:
        raise TypeError(f"{self.place()} {what}. {FIX}")

    def place(self) -> str:
        """The current place, written as in Python: `callbacks.early_stopping.best[3]['key']`."""
        shown = self.path[:8]
        n_dots = next((at for at, key in enumerate(shown) if not is_identifier(key)), len(shown))
        start = ".".join([*([self.where] if self.where else []), *shown[:n_dots]])
        rest = "..." if len(self.path) > len(shown) else ""
        return start + "".join(f"[{key!r}]" for key in shown[n_dots:]) + rest


def is_identifier(key: Any) -> bool:
    """Can this key be written after a dot?"""
    return type(key) is str and key.isidentifier()


def is_simple(values: Sequence[Any]) -> bool:
    """Can a file contain these scalars unchanged? Fast, since histories have a million of them."""
    if not SCALARS.issuperset(map(type, values)):
        return False
    whole = [value for value in values if type(value) is int]
    return not whole or -HUGE < min(whole) <= max(whole) < HUGE


def tagged(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    """The small dict for a value of another type."""
    return {KIND: kind, "value": value, **more}


def as_tensor(content: bytes | memoryview) -> Tensor:
    """A copy of bytes as a tensor."""
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


PACKERS: dict[type, Callable[[_Packing, Any], Any]] = {
    Tensor: _Packing.of_tensor,
    nn.Parameter: _Packing.of_tensor,
    list: _Packing.of_list,
    tuple: _Packing.of_tuple,
    dict: _Packing.of_dict,
    bytes: lambda _, value: tagged("bytes", value.decode("latin1")),
    bytearray: lambda _, value: tagged("bytearray", value.decode("latin1")),
    complex: lambda _, value: tagged("complex", (value.real, value.imag)),
    set: _Packing.of_set,
    frozenset: _Packing.of_set,
    collections.deque: lambda self, value: tagged("deque", self.of_list(list(value)), maxlen=value.maxlen),
    collections.OrderedDict: lambda self, value: tagged("OrderedDict", self.of_dict(value)),
    collections.Counter: lambda self, value: tagged("Counter", self.of_dict(value)),
    collections.defaultdict: _Packing.of_default,
    array.array: _Packing.of_array,
    torch.Size: lambda _, value: tagged("Size", tuple(value)),
    torch.dtype: lambda _, value: tagged("dtype", str(value)),
    torch.device: lambda _, value: tagged("device", str(value)),
    torch.Generator: lambda _, value: tagged("Generator", value.get_state(), device=str(value.device)),
}
