"""Checks for arguments that many callbacks and functions share."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral
from typing import Any, Literal, ParamSpec, TypeGuard, TypeVar, Union

P = ParamSpec("P")
R = TypeVar("R")


def is_number(value: Any) -> TypeGuard[float]:
    """Is it a finite number, and not True or False?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_number(owner: str, argument: str, value: Any, fits: Callable[[float], bool], form: str) -> float:
    """Return a finite number that fits; `form` describes it in messages: "a number above 0, such as 0.05"."""
    if not is_number(value) or not fits(value):
        raise ValueError(f"{owner}({argument}={value!r}): {argument} must be {form}.")
    return value


def check_count(owner: str, argument: str, value: Any, least: int) -> int:
    """Return a whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{owner}({argument}={value!r}): {argument} must be a whole number, {least} or more."
        )
    return int(value)


def check_choices(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a constructor whose types list the values, as `bool` and `Literal` do."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_given(type(args[0]).__name__, function, args, kwargs)
        return function(*args, **kwargs)

    return checked


def check_given(
    title: str, function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Raise an error for an argument that is not one of the values that its type lists.

    A `bool` also takes 0, 1 and the booleans of NumPy and torch, which `==` compares with True and False.
    """
    choices = choices_of(function)
    if choices:
        code = inspect.unwrap(function).__code__
        by_position = zip(code.co_varnames[: code.co_argcount], args, strict=False)
        for name, value in (*by_position, *keywords.items()):
            if name in choices and not is_among(value, choices[name]):
                *first, last = map(repr, choices[name])
                form = f"{', '.join(first)} or {last}"
                error = TypeError if isinstance(choices[name][0], bool) else ValueError
                raise error(f"{title}({name}={value!r}): {name} must be {form}.")


def is_among(value: Any, choices: Sequence[Any]) -> bool:
    """Is it equal to one of these values?"""
    try:
        return value in choices
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several values
        return False


@cache
def choices_of(function: Callable[..., Any]) -> dict[str, list[Any]]:
    """The arguments whose types list the values, each with these values."""
    found = {name: [listed_by(each) for each in members(hint)] for name, hint in hints_of(function).items()}
    listed = {name: parts for name, parts in found.items() if all(parts)}
    return {name: [value for part in parts for value in part] for name, parts in listed.items()}


def listed_by(hint: Any) -> tuple[Any, ...]:
    """The values of a type that lists them; empty for other types."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return (True, False) if hint is bool else (None,) if hint is type(None) else ()


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The types of arguments by name, as far as they can be resolved."""
    function: Any = target.__init__ if isinstance(target, type) else target
    function = inspect.unwrap(function)
    found = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found |= typing.get_type_hints(alone, getattr(function, "__globals__", {}))
        except (NameError, TypeError, AttributeError, SyntaxError):  # imported for type checkers only
            found[name] = Any
    return found


def members(hint: Any) -> list[Any]:
    """The alternatives of a type."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [part for option in typing.get_args(hint) for part in members(option)]
    return [hint]
