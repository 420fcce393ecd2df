"""What a plug-in is given, checked in the ways that many have in common."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any


def is_number(value: Any) -> bool:
    """A finite number; not True or False."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_count(owner: str, argument: str, value: Any, least: int) -> int:
    """A whole number.

    Raises:
        ValueError: it is none, or too small.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{owner}({argument}={value!r}): write a whole number, {least} or more.")
    return value


def as_path(owner: str, argument: str, path: Any, form: str) -> Path:
    """The path that was given as a string or path.

    Args:
        owner: the plug-in's class, as the message names it.
        argument: the argument's name.
        path: what was given.
        form: what to pass, as "a file's name, as 'log.csv'".

    Raises:
        TypeError: it is neither, or empty.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"{owner}({argument}={path!r}): pass {form}.")
    return Path(path)
