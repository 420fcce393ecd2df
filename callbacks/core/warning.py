"""Warn at the user's line, even if standard error cannot be written to; accept the former names of things."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from callbacks.core.contract import LearnerWarning
from callbacks.core.ranks import is_first_process

#: Modules by their first name that a warning does not point to: our own, and what calls in between.
PASSED_OVER = ("callbacks", "learner", "contextlib", "functools", "torch")
UNUSABLE = ("closed file", "detached", "uninitialized")  # as the ValueErrors of Python's streams say it


P = ParamSpec("P")
R = TypeVar("R")


def warn(message: str | LearnerWarning, kind: type[Warning] = LearnerWarning) -> None:
    """Warn with a warning that points to the user's line, the first one outside these packages.

    Of several processes that train together, only the first warns.
    """
    if not is_first_process():
        return
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in PASSED_OVER:
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, kind, stacklevel=level)
    except (OSError, ValueError) as error:
        if not is_output_error(error):
            raise


def is_output_error(error: BaseException | None) -> bool:
    """Whether an error comes from where output goes, rather than from a mistake in code."""
    if isinstance(error, (OSError, UnicodeEncodeError)):
        return True
    return isinstance(error, ValueError) and any(words in str(error) for words in UNUSABLE)


def warn_renamed(old: str, new: str) -> None:
    """Warn that a name has changed, and that the former one still works for one release."""
    warn(f"{old} is called {new} now; the old name disappears in 0.3.0.", DeprecationWarning)


class Renamed:
    """An attribute under its former name, which warns: `answers = Renamed("predicted")`."""

    def __init__(self, new: str):
        self.new = new
        self.__doc__ = f"The former name of `{new}`."

    def __set_name__(self, owner: type, old: str) -> None:
        self.old = old

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(f"{owner.__name__}.{self.old}", f"{owner.__name__}.{self.new}")
        return getattr(instance, self.new)


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that accepts arguments by their former names, and warns: `(answers="predictions")`."""

    def accepting(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old in kwargs and new not in kwargs:
                    warn_renamed(f"{function.__name__}({old}=)", f"{function.__name__}({new}=)")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renamed

    return accepting
