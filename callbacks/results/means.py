"""Means over a pass, from the values of its batches."""

from __future__ import annotations

import math
from array import array
from itertools import zip_longest
from operator import mul
from typing import Any

from torch import Tensor

from callbacks.history.scalars import Scalars, read_both


class Mean:
    """The value of a function over a pass, from its values for batches and their weights.

    Nothing waits for the device before `compute`.
    """

    def __init__(self) -> None:
        self.values, self.weights = Scalars(), Scalars()
        self.n_batches = 0

    def add(self, value: Tensor | float, weight: Tensor | float) -> None:
        """Add a batch."""
        self.n_batches += 1
        self.values.append(value)
        self.weights.append(weight)

    def compute(self, *, adds_up: bool = False) -> float:
        """The weighted mean, NaN if all weights are 0; or the sum."""
        values, weights = self.read()
        return sum(values) if adds_up else weighted_mean(values, weights)

    def read(self) -> tuple[array[float], array[float]]:
        """The values of all batches and their weights; waits for the device."""
        return read_both(self.values, self.weights)

    def clear(self) -> None:
        """Forget all batches."""
        self.n_batches = 0
        self.values.clear()
        self.weights.clear()

    def state_dict(self) -> dict[str, Any]:
        """The values so far, as plain data; waits for the device."""
        values, weights = self.read()
        return {"values": values[:], "weights": weights[:]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.values, self.weights = Scalars(state["values"][:]), Scalars(state["weights"][:])
        self.n_batches = len(self.values.values)


def weighted_mean(values: array[float], weights: array[float]) -> float:
    """Weighted mean of values; NaN if all weights are 0."""
    total = sum(weights)
    if not total:
        return math.nan
    if all(weights):
        return sum(map(mul, values, weights)) / total
    # the mean of an empty batch is NaN, and would stay so times 0
    return sum(value * weight for value, weight in zip(values, weights, strict=True) if weight) / total


def interleaved(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of one `Mean` from those of several processes, their batches in turn."""

    def in_turn(name: str) -> array[float]:
        rows = zip_longest(*[each[name] for each in states])
        return array("d", [value for row in rows for value in row if value is not None])

    return {"values": in_turn("values"), "weights": in_turn("weights")}
