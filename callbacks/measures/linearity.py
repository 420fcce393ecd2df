"""Find functions among the metrics that are not means over items, so that the mean of batches is not theirs.

A function is tried: does its value on the first batches together equal the mean of its values for each? That
calls it a few more times, so a function that seems to keep or write something is not tried, and none is if
the batches cannot be joined item by item. A value that depends on more than the arguments shows nothing.
"""

from __future__ import annotations

import dis
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from callbacks.core.draws import undrawn
from callbacks.core.modules import base_of
from callbacks.core.warning import warn
from callbacks.measures.joined import joined, kept
from callbacks.place.device import tensors_in

#: Names and operations of code that keeps or writes something.
KEEPS = {
    *("append", "extend", "insert", "update", "setdefault", "pop", "clear", "remove", "discard", "setattr"),
    *("print", "write", "open", "put", "next", "sleep", "logging", "logger", "wandb", "mlflow"),
}
STORES = {"STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR"}
LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "torchmetrics")
N_BATCHES, N_NUMBERS = 8, 1 << 22  # that are kept to try on, at most
ROUNDING = 1e-3


class Trial:
    """Try the functions, once, on the first batches of a pass."""

    def __init__(self, functions: dict[str, Callable[..., Any]]):
        self.functions = {name: each for name, each in functions.items() if is_pure(each)}
        self._clear()

    def start(self, n_batches: int | None) -> None:
        """Start a pass with this number of batches; None if it is not known."""
        if self._n_numbers:
            self._clear()
        self._is_full = not self.functions or n_batches == 1  # the mean of one batch is right

    def _clear(self) -> None:
        self._batches: list[tuple[Any, Any]] = []
        self._values: dict[str, list[tuple[Any, Any]]] = {name: [] for name in self.functions}
        self._n_numbers, self._is_full = 0, True

    @property
    def is_on(self) -> bool:
        """Is the next batch needed?"""
        return not self._is_full

    def see(self, preds: Any, targets: Any, found: dict[str, tuple[Any, Any]]) -> None:
        """Keep a batch, with each function's value and weight."""
        tensors = list(tensors_in((preds, targets)))
        self._n_numbers += sum(each.numel() for each in tensors)
        self._is_full = self._n_numbers > N_NUMBERS or not are_rows(tensors)
        if not self._is_full:
            self._batches.append((kept(preds), kept(targets)))
            for name, values in self._values.items():
                values.append(found[name])
            self._is_full = len(self._batches) == N_BATCHES

    def report(self) -> None:
        """Warn about functions that are not means over items; call it when a pass ends."""
        if len(self._batches) > 1:
            for name, function in self.functions.items():
                self._try(name, function)
            self.functions = {}
            self._clear()

    def _try(self, name: str, function: Callable[..., Any]) -> None:
        values = self._values[name]
        if all(float(weight) == 1 for _, weight in values) and self._has_rows():
            return  # each batch is one item, such as a query with its documents
        mean = mean_of(values)
        scale, rounding = max(abs(float(value)) for value, _ in values), rounding_of(values[0][0])
        try:
            with quietly():
                whole = float(function(*self._together()))
                if is_same(whole, mean, scale, rounding):
                    return
                again = float(function(*self._together()))
                preds, targets = self._together()
                if broadcasts(function, preds, targets, whole):
                    return  # the checks before a fit report it
                first = float(function(*map(kept, self._batches[0])))
        except Exception:  # noqa: BLE001 - a function for single batches: it shows nothing, and did its work
            return
        if is_same(whole, again) and is_same(first, float(values[0][0]), scale, rounding):
            warn(
                f"the metric {name} is not a mean over items, but the mean of its values for batches is "
                f"reported. For the first {len(self._batches)} batches, this mean is {mean:.4g}, but the "
                f"metric of all their items is {whole:.4g}. To call it once on the whole pass, write from "
                f"callbacks import whole_pass, and pass whole_pass({name})."
            )

    def _has_rows(self) -> bool:
        """Does a kept batch have several rows?"""
        return any(len(each) > 1 for each in tensors_in(self._batches))

    def _together(self) -> list[Any]:
        """Predictions and targets of all kept batches."""
        return [joined(parts) for parts in zip(*self._batches, strict=True)]


def broadcasts(function: Callable[..., Any], preds: Any, targets: Any, value: float) -> bool:
    """Does the value change if preds of shape (N, 1), for example, get the shape (N,) of the targets?"""
    if not (isinstance(preds, Tensor) and isinstance(targets, Tensor) and preds.numel() == targets.numel()):
        return False
    try:
        return not is_same(value, float(function(preds.reshape(targets.shape), targets)))
    except Exception:  # noqa: BLE001 - it takes only its own shape
        return False


def are_rows(tensors: list[Tensor]) -> bool:
    """Do the tensors have equally many rows, so that several batches can be joined?"""
    return all(each.ndim and not each.is_nested and len(each) == len(tensors[0]) for each in tensors)


@contextmanager
def quietly() -> Iterator[None]:
    """Draw nothing, build no graph, show no warnings and change no module within the block."""
    with undrawn(), torch.no_grad(), buffers_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def buffers_kept() -> Iterator[None]:
    """Restore the buffers of all modules that are called within the block.

    A function may call a module that counts or iterates as it is called, as spectral norm does.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, arguments: Any) -> None:
        for each in module.buffers(recurse=isinstance(module, torch.jit.ScriptModule)):
            if id(each) not in found and not each.is_inference():
                found[id(each)] = each, each.clone()

    handle = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, before in found.values():
                if not torch.equal(buffer, before):  # batch norm does not count as a new version
                    buffer.copy_(before)


def mean_of(values: list[tuple[Any, Any]]) -> float:
    """The mean of values with their weights."""
    pairs = [(float(value), float(weight)) for value, weight in values]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs if weight) / total if total else math.nan


def rounding_of(value: Any) -> float:
    """How much a value may differ, relative to its size; more in half precision."""
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return max(ROUNDING, 4 * torch.finfo(value.dtype).eps) if is_float else ROUNDING


def is_same(one: float, other: float, scale: float = 0.0, rounding: float = ROUNDING) -> bool:
    """Are they equal up to rounding, or both NaN? `scale` is the size of the numbers that were averaged."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    least = 1e-2 * rounding * scale if math.isfinite(scale) else 0.0
    return math.isclose(one, other, rel_tol=rounding, abs_tol=max(1e-6, least))


def is_pure(function: Any, depth: int = 3) -> bool:
    """Does a function seem to have no side effects, so that it may be called again?"""
    work, owner = plain(function), owner_of(function)
    if isinstance(owner, nn.Module) and any(isinstance(each, _NormBase) for each in owner.modules()):
        return False
    if not isinstance(work, FunctionType) or work.__module__.split(".")[0] in LIBRARIES:
        return True
    return keeps_nothing(work.__code__) and (
        not depth or all(is_pure(each, depth - 1) for each in used_by(work, owner))
    )


def keeps_nothing(code: CodeType) -> bool:
    """Is there no operation in compiled code that keeps or writes something, in inner functions too?"""
    in_place = any(name.endswith("_") and not name.endswith("__") for name in code.co_names)  # as `mul_`
    stores = any(each.opname in STORES for each in dis.get_instructions(code))
    if in_place or stores or not KEEPS.isdisjoint(code.co_names):
        return False
    return all(keeps_nothing(each) for each in code.co_consts if isinstance(each, CodeType))


def used_by(function: FunctionType, owner: Any) -> Iterator[Any]:
    """The user's functions and modules that a function uses, by name or from its object."""
    used = inspect.getclosurevars(function)
    for each in (*used.globals.values(), *used.nonlocals.values()):
        if isinstance(each, (FunctionType, partial, nn.Module)):
            yield each
    for name in function.__code__.co_names if owner is not None else ():
        each = getattr(type(owner), name, None) or getattr(owner, name, None)
        if isinstance(each, (FunctionType, nn.Module)) and each is not function:
            yield each


def owner_of(function: Any) -> Any:
    """The object that a method, module or callable object belongs to; None for a function."""
    function = base_of(function)
    function = getattr(function, "one_by_one", function)
    if inspect.ismethod(function):
        return function.__self__
    return None if inspect.isroutine(function) or isinstance(function, type) else function


def plain(function: Any) -> Any:
    """The function that does the work, of partials, methods, modules and callable objects."""
    function = base_of(function)
    function = getattr(function, "one_by_one", function)
    if isinstance(function, nn.Module):
        is_scripted = isinstance(function, torch.jit.ScriptModule)  # its code is no longer Python's
        return function if is_scripted else type(function).forward
    if inspect.ismethod(function):
        return function.__func__
    if not inspect.isroutine(function) and not isinstance(function, Tensor):
        return type(function).__call__
    return function
