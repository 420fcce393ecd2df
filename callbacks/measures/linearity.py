"""Find functions among the metrics that are not means over items, so that the mean of batches is not theirs.

The names that a function uses make it suspect. Then it is tried: does its value on the first batches together
equal the mean of its values for each? There is a warning only if both signs are present.
"""

from __future__ import annotations

import dis
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.draws import undrawn
from callbacks.core.modules import base_of
from callbacks.core.warning import warn
from callbacks.measures.joined import joined, kept
from callbacks.place.device import tensors_in

#: Parts of names that mean what is not a mean over items.
WORDS = {
    *("f1", "fbeta", "fscore", "precision", "recall", "sensitivity", "specificity", "jaccard", "iou", "dice"),
    *("auc", "auroc", "roc", "r2", "d2", "corrcoef", "corr", "pearson", "pearsonr", "spearman", "spearmanr"),
    *("kendall", "kendalltau", "concordance", "kappa", "matthews", "mcc", "median", "nanmedian", "quantile"),
    *("percentile", "sqrt", "rmse", "rms", "root", "psnr", "perplexity", "explained", "balanced"),
    "max_error",
}
LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "torchmetrics")
N_BATCHES, N_NUMBERS = 8, 1 << 22  # that are kept to try on, at most
ROUNDING = 1e-3


class Trial:
    """Try the suspect functions, once, on the first batches of a pass."""

    def __init__(self, functions: dict[str, Callable[..., Any]]):
        self.functions = {name: each for name, each in functions.items() if is_suspected(each)}
        self.clear()

    def clear(self) -> None:
        """Start a pass."""
        self._batches: list[tuple[Any, Any]] = []
        self._values: dict[str, list[tuple[Any, Any]]] = {name: [] for name in self.functions}
        self._n_numbers = 0
        self._is_full = not self.functions

    @property
    def is_on(self) -> bool:
        """Is the next batch needed?"""
        return not self._is_full

    def see(self, preds: Any, targets: Any, found: dict[str, tuple[Any, Any]]) -> None:
        """Keep a batch, with each function's value and weight."""
        self._n_numbers += sum(each.numel() for each in tensors_in((preds, targets)))
        self._is_full = self._n_numbers > N_NUMBERS
        if not self._is_full:
            self._batches.append((kept(preds), kept(targets)))
            for name, values in self._values.items():
                values.append(found[name])
            self._is_full = len(self._batches) == N_BATCHES

    def report(self) -> None:
        """Warn about functions that are not means over items; call it when a pass ends."""
        if not self.functions:
            return
        if len(self._batches) > 1:
            for name, function in self.functions.items():
                self._try(name, function)
            self.functions = {}
        self.clear()

    def _try(self, name: str, function: Callable[..., Any]) -> None:
        mean = mean_of(self._values[name])
        try:
            parts = [joined(parts) for parts in zip(*self._batches, strict=True)]
            with undrawn():
                whole, again = (float(function(*parts)) for _ in range(2))
        except Exception:  # noqa: BLE001 - a function for single batches: it shows nothing, and did its work
            return
        if is_same(whole, again) and not is_same(whole, mean):
            warn(
                f"the metric {name} is not a mean over items, but the mean of its values for batches is "
                f"reported: of the first {len(self._batches)} batches {mean:.4g}, where it is {whole:.4g} on "
                f"their items together. To call it once on the whole pass, write whole_pass({name}), "
                "with from callbacks import whole_pass."
            )


def mean_of(values: list[tuple[Any, Any]]) -> float:
    """The mean of values with their weights."""
    pairs = [(float(value), float(weight)) for value, weight in values]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs if weight) / total if total else math.nan


def is_same(one: float, other: float) -> bool:
    """Are they equal up to rounding, or both NaN?"""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-6)


def is_suspected(function: Any) -> bool:
    """Does a function use a name that means something else than a mean, or take a root?"""
    names = set(names_in(function))
    return bool(names & WORDS) or any(not WORDS.isdisjoint(name.lower().split("_")) for name in names)


def names_in(function: Any, depth: int = 3) -> Iterator[str]:
    """The names that a function uses, its own, and those of the user's functions that it calls."""
    function = plain(function)
    yield getattr(function, "__name__", "")
    if not isinstance(function, FunctionType) or function.__module__.split(".")[0] in LIBRARIES:
        return
    yield from names_in_code(function.__code__)
    if not depth:
        return
    used = inspect.getclosurevars(function)
    for each in (*used.globals.values(), *used.nonlocals.values()):
        if isinstance(each, (FunctionType, partial)):
            yield from names_in(each, depth - 1)


def names_in_code(code: CodeType) -> Iterator[str]:
    """The names in compiled code, of inner functions too; `sqrt` where something is raised to 0.5."""
    yield from code.co_names
    if 0.5 in code.co_consts and any(each.argrepr == "**" for each in dis.get_instructions(code)):
        yield "sqrt"
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from names_in_code(each)


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
