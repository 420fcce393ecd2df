"""Checks for arguments that many callbacks share."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Is it a finite number, and not True or False?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_count(owner: str, argument: str, value: Any, least: int) -> int:
    """Return a whole number."""
    if type(value) is not int or value < least:
        raise ValueError(f"{owner}({argument}={value!r}): write a whole number, {least} or more.")
    return value


def check_switches(owner: str, **values: Any) -> None:
    """Check arguments that are True or False."""
    for argument, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{owner}({argument}={value!r}): write True or False.")
