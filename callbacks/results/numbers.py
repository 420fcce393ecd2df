"""Results as plain numbers, whoever wrote them and in whatever type."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

PLAIN = frozenset({float, int, bool, str, type(None)})


class Results(dict[str, Any]):
    """A dict whose values are plain numbers, strings, and lists of them.

    A tensor becomes a number where it has one element, else nested lists; so does what NumPy gives. Mappings
    become dicts, named tuples tuples, and decimals and fractions floats. Nothing that is kept holds a graph.
    A tensor on another device than the CPU is copied there, without a wait, and becomes a number when it is
    first read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        if type(value) in PLAIN:  # most are
            super().__setitem__(name, value)
            return
        is_elsewhere = isinstance(value, Tensor) and not value.is_cpu
        super().__setitem__(name, value.detach().clone() if is_elsewhere else as_number(value))

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, Tensor):
            value = as_number(value)  # the one wait
            super().__setitem__(name, value)
        return value

    def __missing__(self, name: str) -> Any:
        error = KeyError(name)
        measured = (
            f"the results so far are {', '.join(self)}" if self else "nothing is measured yet in this epoch"
        )
        error.add_note(f"{measured}. Read it in a later event, such as after_epoch, or use .get({name!r}).")
        raise error

    def __iter__(self) -> Iterator[str]:  # so that dict(results) and {**results} read by __getitem__
        return super().__iter__()

    def __ior__(self, other: Any) -> Results:  # type: ignore[override]
        self.update(other)
        return self

    def __or__(self, other: Any) -> Results:  # type: ignore[override]
        return Results({**self, **other})

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(dict(self))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write several."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return the value, or write the default."""
        if name not in self:
            self[name] = default
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or the default."""
        return self[name] if name in self else default  # noqa: SIM401

    def pop(self, name: str, *default: Any) -> Any:
        """Remove the value and return it."""
        if name not in self:
            return super().pop(name, *default)
        value = self[name]
        del self[name]
        return value

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Names with their numbers."""
        return dict(self).items()  # type: ignore[return-value]

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """The numbers."""
        return dict(self).values()  # type: ignore[return-value]

    def copy(self) -> Results:
        """A copy with the same numbers."""
        return Results(self)


#: What was measured in this epoch, by name: plain numbers, whatever is written. Without a Python call.
results_of: Callable[[Any], Results] = attrgetter("_results")


def as_results(results: dict[str, Any]) -> Results:
    """The same object if it is one of `Results`, otherwise a copy."""
    return results if isinstance(results, Results) else Results(results)


def as_number(value: Any) -> Any:
    """A plain number, or nested lists of numbers, off the device; any other value is unchanged."""
    if isinstance(value, Tensor):
        return numbers_of(value.detach())
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return as_number(value.item() if value.size == 1 else value.tolist())
    if isinstance(value, (Decimal, Fraction)):
        return float(value)
    if isinstance(value, (tuple, list, deque)):
        return (tuple if isinstance(value, tuple) else list)(map(as_number, value))
    if isinstance(value, Mapping):
        return {key: as_number(each) for key, each in value.items()}
    return value


def numbers_of(tensor: Tensor) -> Any:
    """The numbers of a tensor; NaN on the meta device, which has none."""
    if tensor.is_nested:
        return [numbers_of(each) for each in tensor.unbind()]
    if tensor.is_meta:
        tensor = torch.full(tensor.shape, math.nan, device="cpu")
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    return dense.item() if dense.numel() == 1 else dense.tolist()
