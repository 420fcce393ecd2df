"""Checks for arguments that many callbacks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Is it a finite number, and not True or False?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_number(owner: str, argument: str, value: Any, fits: Callable[[float], bool], form: str) -> float:
    """Return a finite number that fits; `form` describes it in messages: "a number above 0, such as 0.05"."""
    if not is_number(value) or not fits(value):
        raise ValueError(f"{owner}({argument}={value!r}): {argument} must be {form}.")
    return value


def check_choice(owner: str, argument: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return one of several values."""
    if value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{owner}({argument}={value!r}): {argument} must be {', '.join(first)} or {last}.")
    return value


def check_count(owner: str, argument: str, value: Any, least: int) -> int:
    """Return a whole number."""
    if type(value) is not int or value < least:
        raise ValueError(
            f"{owner}({argument}={value!r}): {argument} must be a whole number, {least} or more."
        )
    return value


def check_switches(owner: str, **values: Any) -> None:
    """Check arguments that are True or False."""
    for argument, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{owner}({argument}={value!r}): {argument} must be True or False.")
