"""Values that hold nothing that may change."""

from __future__ import annotations

import inspect
import re
from collections import namedtuple
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import (
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any

import torch

#: Compared by their value, not by which object they are.
VALUES = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size)
FIELD = type(vars(namedtuple("Named", "field"))["field"])  #: of a named tuple, in its class
#: Others that never change.
ATOMS = (
    *(range, slice, type(...), re.Pattern, Decimal, date, time, timedelta, PurePath),
    *(torch.layout, torch.memory_format, torch.finfo, torch.iinfo, CodeType, property),
    *(GenericAlias, UnionType, staticmethod, classmethod),
    *(FIELD, GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType),
)


def is_value(value: Any) -> bool:
    """Is it compared by its value, not by which object it is?"""
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_value, value))
    return type(value) in VALUES


def is_atom(value: Any) -> bool:
    """Does it hold nothing that may change?"""
    kind = type(value)
    if kind in VALUES or isinstance(value, ATOMS):
        return True
    return kind.__module__ == "numpy" and kind.__name__ != "ndarray"  # a scalar, a type or a ufunc


def function_of(value: Any) -> FunctionType | None:
    """The function within a method, property or decorated one; None for what is none."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None
