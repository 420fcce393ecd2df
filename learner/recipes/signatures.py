"""Check arguments against the signature of a class or function, before it is called."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.core.foreign_names import ARGUMENT_WORDS
from callbacks.core.settings import hints_of, members
from learner.recipes.recipe_errors import closest

WEIGHTS = ("weight", "pos_weight")  # of classes, in torch's losses: floats, even if written as 1
PATHS = ("Path", "PurePath", "PathLike")  # types that a recipe gives as text
HIDDEN = ("size_average", "reduce")  # of torch's losses: deprecated


class Signature:
    """The arguments of a class or function that a recipe can give; the loop passes the first `n_given`.

    `starred` is the name in `*name`, as "metrics" in `Metrics(*metrics)`; a recipe writes a list.
    """

    def __init__(self, target: Callable[..., Any], n_given: int = 0):
        try:
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):  # written in C, without a signature; the call checks
            parameters = [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]
        stars = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
        self.starred = stars[0] if stars and not n_given else None
        self.takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
        named = [
            each
            for position, each in enumerate(parameters)
            if (each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and position >= n_given)
            or each.name == self.starred
        ]
        self.parameters = {each.name: each for each in named if each.name not in HIDDEN}
        self.types = hints_of(target)

    @property
    def required(self) -> list[str]:
        """Arguments without a default."""
        needed = [name for name, each in self.parameters.items() if each.default is each.empty]
        return [name for name in needed if name != self.starred]

    def unknown(self, name: str) -> str | None:
        """A hint for an argument that does not exist; None if it does."""
        if name in self.parameters or self.takes_any:
            return None
        if not self.parameters:
            return "It takes no arguments."
        words = {
            word: next(each for each in meant if each in self.parameters)
            for word, meant in ARGUMENT_WORDS.items()
            if self.parameters.keys() & meant
        }
        close = closest(name, [*self.parameters, *words])
        hint = f"Did you mean {words.get(close, close)}? " if close else ""
        return f"{hint}It takes: {', '.join(self.parameters)}."

    def wrong_value(self, name: str, value: Any) -> str | None:
        """Describe what the argument takes, if this plain value does not fit; None if it fits."""
        parameter = self.parameters.get(name)
        if parameter is None or (value == parameter.default and type(value) is type(parameter.default)):
            return None
        if name == self.starred:
            return None if isinstance(value, list) else "a list"
        if name == "lr" and isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            return "a finite number above 0"
        hint = self.types.get(name, Any)
        if hint is Any:
            return mismatch_with_default(value, parameter.default)
        return None if fits(value, hint) else " or ".join(dict.fromkeys(words_for(hint)))

    def convert(self, name: str, value: Any) -> Any:
        """Convert a list to a tuple or a tensor if the annotation asks for one; return others unchanged."""
        options = members(self.types.get(name, Any))
        origins = [typing.get_origin(option) or option for option in options]
        if Tensor in origins and is_numbers(value):
            return torch.tensor(value, dtype=torch.get_default_dtype() if name in WEIGHTS else None)
        return tuple(value) if isinstance(value, list) and tuple in origins and list not in origins else value


def fits(value: Any, hint: Any) -> bool:
    """Can a plain value be passed for this type? True if the type does not decide it."""
    return any(fits_one(value, option) for option in members(hint))


def fits_one(value: Any, option: Any) -> bool:
    """The same for one alternative."""
    origin = typing.get_origin(option)
    if origin is Literal:
        return value in typing.get_args(option)
    if origin is tuple and isinstance(value, list):
        parts = [part for part in typing.get_args(option) if part is not Ellipsis]
        return Ellipsis in typing.get_args(option) or not parts or len(parts) == len(value)
    base = origin or option
    if option is None or base is type(None):
        return value is None
    if not isinstance(base, type) or base is object or getattr(base, "_is_protocol", False):
        return True
    if base in (int, float) or base is bool:
        return type(value) in ((int, float) if base is float else (base,))
    if base is Tensor:
        return is_numbers(value)
    if isinstance(value, list):
        return issubclass(base, (list, tuple)) or (issubclass(list, base) and base not in (str,))
    if isinstance(value, dict):
        return issubclass(dict, base)
    if base.__name__ in PATHS:
        return isinstance(value, str)
    if base in (Sequence, Mapping):
        return False
    return isinstance(value, base)


def is_numbers(value: Any) -> bool:
    """Is it a list of numbers, or of such lists of one length, which a tensor can hold?"""
    if not isinstance(value, list) or not value:
        return False
    rows = [each for each in value if isinstance(each, list)]
    if rows:
        return len(rows) == len(value) and len(set(map(len, rows))) == 1 and all(map(is_numbers, rows))
    return all(type(each) in (int, float) for each in value)


def words_for(hint: Any) -> list[str]:
    """Describe in words what a type accepts."""
    found, options = [], list(members(hint))
    for option in options:
        base = typing.get_origin(option) or option
        if base is Tensor and float in options:  # torch's rates; in a recipe one is a number
            continue
        if base is Literal:
            found.append(" or ".join(map(str, typing.get_args(option))))
        elif base in WORDS:
            found.append(WORDS[base])
        elif isinstance(base, type) and issubclass(base, (list, tuple, Sequence)):
            parts = typing.get_args(option)
            is_fixed = base is tuple and parts and Ellipsis not in parts
            found.append(f"a list of {len(parts)}" if is_fixed else "a list, as [1, 2]")
        elif getattr(base, "__name__", "") not in (*PATHS, "device", "dtype"):
            found.append(PART)
    return sorted(found, key=PART.__eq__) or ["text"]


PART = "a part with `use:`"


WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    dict: "a mapping, as {key: value}",
    Tensor: "a list of numbers, as [1.0, 2.5]",
}


def mismatch_with_default(value: Any, default: Any) -> str | None:
    """Describe what an argument without annotation takes, if its default shows that this value is wrong."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, (int, float)) and isinstance(value, (str, bool)):
        return "a number"
    return None
