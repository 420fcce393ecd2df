"""Curves from one value to another, by progress from 0 to 1: for `annealers.py`, and copied into scripts."""

from __future__ import annotations

import math


def constant(value: float, progress: float) -> float:
    """The same value all the time."""
    return value


def lin(start: float, end: float, progress: float) -> float:
    """Linear from one value to another."""
    return start + (end - start) * progress


def cos(start: float, end: float, progress: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)


def exp(start: float, end: float, progress: float) -> float:
    """From one value to another by the same factor at each step."""
    return start * (end / start) ** progress


def poly(start: float, end: float, power: float, progress: float) -> float:
    """From one value to another by a power of progress."""
    return start + (end - start) * progress**power
