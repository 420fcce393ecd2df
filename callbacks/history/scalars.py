"""Numbers of many steps, kept without waiting for the device."""

from __future__ import annotations

import math
from array import array

import torch
from torch import Tensor

# Tensors of one element take about 500 bytes each, so they are joined long before there are a million.
JOIN_AT = 1024


def mean_and_largest(values: array[float]) -> tuple[float, float]:
    """Mean and largest of some numbers, at least one; both are NaN if one of them is."""
    # the order in which max compares does not hide a NaN
    return sum(values) / len(values), math.nan if any(map(math.isnan, values)) else max(values)


class Scalars:
    """A growing series of numbers, 8 bytes each once read.

    A number on the CPU is read at once, which waits for nothing. One on another device stays there, joined
    with its neighbours, until `read` brings all of them in one transfer.
    """

    def __init__(self, values: array[float] | None = None):
        self.values = array("d") if values is None else values
        self._pending: list[Tensor] = []
        self._joined: list[Tensor] = []

    def append(self, value: Tensor | float) -> None:
        """Add a number, or a tensor of one element, without waiting for the device.

        After numbers on a device, one on the CPU waits once, to keep the order.
        """
        if type(value) is not float and isinstance(value, Tensor):
            if not value.is_cpu:
                self._pending.append(value)
                if len(self._pending) == JOIN_AT:
                    self._join()
                return
            value = value.item()  # no wait: the number is there
        if self._pending or self._joined:
            self.read()
        self.values.append(value)

    def read(self) -> array[float]:
        """All numbers so far; waits for the device if some are still on it."""
        self._join()
        for part in self._joined:
            self.values.extend(part.tolist())
        self._joined.clear()
        return self.values

    def clear(self) -> None:
        """Forget all numbers."""
        if self.values:
            self.values = array("d")  # the former one may be in use
        if self._pending or self._joined:
            self._pending, self._joined = [], []

    def _join(self) -> None:
        if self._pending:
            shapes = {tuple(value.shape) for value in self._pending if value.numel() != 1}
            if shapes:
                raise ValueError(f"one number per batch is needed, but there are tensors of shape {shapes}")
            self._joined.append(torch.stack([value.detach().reshape(()) for value in self._pending]))
            self._pending.clear()


def read_both(one: Scalars, other: Scalars) -> tuple[array[float], array[float]]:
    """All numbers of two series, in one transfer if both are on a device."""
    if not (one._pending or one._joined or other._pending or other._joined):
        return one.values, other.values
    one._join()
    other._join()
    parts = [*one._joined, *other._joined]
    if one._joined and other._joined and len({part.device for part in parts}) == 1:
        found = torch.cat(parts).tolist()
        n_first = sum(map(len, one._joined))
        one.values.extend(found[:n_first])
        other.values.extend(found[n_first:])
        one._joined.clear()
        other._joined.clear()
    return one.read(), other.read()
