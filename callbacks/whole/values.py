"""Find values that cannot change, and read what others hold."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict, defaultdict, deque, namedtuple
from contextvars import ContextVar
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    SimpleNamespace,
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
CONTAINERS = (list, tuple, dict, set, frozenset, deque, MappingProxyType)
#: Types written in C whose instances hold nothing but attributes and entries.
KNOWN = {*CONTAINERS, object, int, float, complex, str, bytes, OrderedDict, defaultdict, SimpleNamespace}
KNOWN |= {BaseException, Exception, partial}
PLAIN = (torch.Tensor, torch.nn.Parameter)
MISSING = object()  #: stands in a slot that has no value


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
    """The function in a method, property or decorated function; None for anything else."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def slot_of(value: Any, slots: dict[str, Any], key: str) -> Any:
    """What stands in a slot of an object."""
    try:
        return slots[key].__get__(value)
    except AttributeError:
        return MISSING


def entry_of(kind: type, key: str) -> Any:
    """What a class itself has by a name; None for nothing."""
    return vars(kind).get(key)


def contents_of(cell: CellType, key: str) -> Any:
    """The value of a variable of a closure."""
    try:
        return getattr(cell, key)
    except ValueError:
        return MISSING


def context_of(variable: ContextVar[Any], key: str) -> Any:
    """The value of a context variable."""
    return variable.get(MISSING)


def is_transparent(kind: type) -> bool:
    """Do entries and attributes hold all that instances of a class hold?"""
    for each in kind.__mro__:
        if each in KNOWN:
            continue
        is_static = not each.__flags__ & (1 << 9)  # Py_TPFLAGS_HEAPTYPE: not made by the word `class`
        own = vars(each)
        has_c_methods = any(isinstance(value, MethodDescriptorType) for value in own.values())
        counts_otherwise = issubclass(each, CONTAINERS) and not {"__len__", "__iter__"}.isdisjoint(own)
        is_made_by_c = isinstance(own.get("__new__"), BuiltinFunctionType)
        if is_static or has_c_methods or counts_otherwise or is_made_by_c:
            return False
    return True


def unwatchable(value: Any, where: str) -> str:
    """Why a value cannot be watched, and what to do."""
    kind = type(value)
    is_array = kind.__name__ == "ndarray"
    fix = "make it a buffer, with register_buffer" if is_array else "keep it out of forward and loss"
    if kind is torch.Generator:
        return f"forward pass or loss draw from their own generator ({where}), which a program cannot do"
    return f"the step can read {where}, a {kind.__module__}.{kind.__name__}, which changes unseen: {fix}"


def memory_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where the numbers of a tensor are, and of which kind; `.data` and `set_` may give it others."""
    is_plain = type(tensor) in PLAIN and tensor.layout is torch.strided
    return (tensor.data_ptr() if is_plain else 0, tensor.shape, tensor.dtype, tensor.requires_grad)


def torch_settings() -> tuple[Any, ...]:
    """The global settings of torch that a step can depend on."""
    return (
        torch.get_default_dtype(),
        id(getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)),
        torch.are_deterministic_algorithms_enabled(),
        *(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")),
        *(torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
