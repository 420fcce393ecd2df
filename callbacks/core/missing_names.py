"""Errors for names, arguments and packages that are missing: they contain what was meant, or the command."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from callbacks.core.foreign_names import ARGUMENT_WORDS, CALLBACK_WORDS
from callbacks.core.settings import check_given

P = ParamSpec("P")
R = TypeVar("R")


def meant_instead(name: str, ours: Iterable[str], words: Mapping[str, str]) -> str | None:
    """The name here for a name that is missing; None if it is not known for certain.

    It is known for the words of another framework, for ours in other capitals, and for ours with an ending
    of fastai, as in `EarlyStoppingCallback` and `CancelFitException`.
    """
    if name in words:
        return words[name]
    by_lower = {each.lower(): each for each in ours}
    bare = name.lower().replace("_", "")
    tried = (name.lower(), bare, bare.removesuffix("callback"), bare.removesuffix("exception"))
    return next((by_lower[word] for word in tried if word in by_lower), None)


def missing_callback(
    name: str, ours: Iterable[str], annealers: Iterable[str], frame: FrameType
) -> ImportError | AttributeError:
    """The error for a name that `callbacks` lacks; see `missing`."""
    if name.startswith("_") or find_spec(f"callbacks.{name}"):  # a module that is not imported yet
        meant = None
    elif name in annealers:
        meant = f"from callbacks.annealers import {name}"
    else:
        meant = meant_instead(name, ours, CALLBACK_WORDS)
    return missing("callbacks", name, meant, frame)


def import_extra(module: str, owner: str) -> Any:
    """Import a package that our extra of the same name installs, or a module of it."""
    try:
        return import_module(module)
    except ImportError as error:
        extra = module.partition(".")[0]
        raise ImportError(
            f'{owner} needs a package that is missing: pip install "plainlearner[{extra}]".'
        ) from error


def missing(module: str, name: str, meant: str | None, asking: FrameType) -> ImportError | AttributeError:
    """The error for a name that a module lacks.

    Args:
        module: its name.
        name: what was asked for.
        meant: its name here; None if it is not known for certain.
        asking: the frame that uses the name.

    Returns:
        An AttributeError, so that `hasattr` is False; an ImportError where a `from ... import` asks, as it
        hides the message of an AttributeError.
    """
    if meant is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"there is no {module}.{name}. Its equivalent here: {meant}."
    if dis.opname[asking.f_code.co_code[asking.f_lasti]] == "IMPORT_FROM":
        return ImportError(message, name=module)
    return AttributeError(message, name=name)


def unknown_argument(title: str, name: str, own: Sequence[str], hint: str = "") -> TypeError:
    """The error for a keyword that a function or class does not take.

    Args:
        title: its name.
        name: the keyword.
        own: the names of its arguments.
        hint: what to write instead, if it is not another argument.
    """
    meant = meant_argument(name, own)
    hint = hint or (f"Did you mean {meant}?" if meant else "")
    known = f"Available: {', '.join(own)}." if own else "It takes no arguments."
    sentences = (f"{title}() has no argument {name!r}.", hint, known)
    return TypeError(" ".join(filter(None, sentences)))


def too_many_arguments(
    title: str, by_position: Sequence[str], n_given: int, own: Sequence[str], hint: str = ""
) -> TypeError:
    """The error for more arguments than a function or class takes by position.

    Args:
        title: its name.
        by_position: the names of the arguments that it takes by position.
        n_given: how many were passed by position.
        own: the names of all its arguments.
        hint: what to write instead; by default the names of the others.
    """
    rest = ", ".join(f"{name}=..." for name in own if name not in by_position)
    sentences = (
        f"{title}() takes {len(by_position)} argument{'' if len(by_position) == 1 else 's'} by position"
        f"{' (' + ', '.join(by_position) + ')' if by_position else ''}, but got {n_given}.",
        hint or (f"Pass the others by name: {rest}." if rest else ""),
    )
    return TypeError(" ".join(filter(None, sentences)))


class Arguments:
    """The arguments that a function takes; `check` refuses others, with the one that was probably meant.

    Args:
        parameters: of its signature, without those that callers do not write, such as `self`.
        others: keywords that it passes to another function; None for any.
    """

    def __init__(self, parameters: Iterable[inspect.Parameter], others: Iterable[str] | None = None):
        found = list(parameters)
        stars = {
            each.kind: each.name for each in found if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        }
        self.own = [each.name for each in found if each.name not in stars.values()]
        self.by_position = [each.name for each in found if each.kind < each.VAR_POSITIONAL]
        self.star = stars.get(inspect.Parameter.VAR_POSITIONAL)
        self.takes_any = others is None and inspect.Parameter.VAR_KEYWORD in stars
        self.known = [*self.own, *(others or ())]

    def check(
        self,
        title: str,
        n_given: int,
        keywords: Iterable[str],
        hint: Callable[[str], str] = lambda _: "",
        position_hint: str = "",
    ) -> None:
        """Check the number of arguments by position, and the keywords, for which `hint` may return a hint."""
        if self.star is None and n_given > len(self.by_position):
            raise too_many_arguments(title, self.by_position, n_given, self.own, position_hint)
        for name in () if self.takes_any else keywords:
            if name not in self.known:
                raise unknown_argument(title, name, self.known, hint(name))


def suggest_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function, or of the `__init__` of a class, at each call; see `Arguments`."""
    makes = function.__name__ == "__init__"
    taken = Arguments(list(inspect.signature(function).parameters.values())[makes:])

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        title = type(args[0]).__name__ if makes else function.__name__
        taken.check(title, len(args) - makes, kwargs)
        check_given(title, function, args, kwargs)
        return function(*args, **kwargs)

    return checked


def meant_argument(name: str, own: Sequence[str]) -> str | None:
    """The argument that was probably meant: by another framework's word, or by its letters."""
    meant = [other for other in ARGUMENT_WORDS.get(name, ()) if other in own]
    return next(iter([*meant, *get_close_matches(name, own, n=1)]), None)
