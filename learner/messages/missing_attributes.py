"""Hints for attributes that our classes lack, and for names that `learner` lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

from torch import Tensor

import callbacks
from callbacks import Callback
from callbacks.core.contract import LearnerProtocol
from callbacks.core.foreign_names import CALLBACK_WORDS, LEARNER_WORDS, PACKAGE_WORDS
from callbacks.core.missing_names import meant_instead

T = TypeVar("T")


def meant_of_package(name: str, ours: Iterable[str]) -> str | None:
    """The name to use instead of `learner.<name>`; None for a module, or if it is not known for certain."""
    if name.startswith("_") or find_spec(f"learner.{name}"):  # a module that is not imported yet
        return None
    if name in callbacks.__all__:
        return f"from callbacks import {name}"
    if name in PACKAGE_WORDS:
        return PACKAGE_WORDS[name]
    return meant_instead(name, ours, {}) or meant_instead(name, callbacks.__all__, CALLBACK_WORDS)


class MissingAttribute:
    """An attribute that a class lacks and another framework has: reading it raises an error with ours.

    `hasattr` is False, and a subclass or an instance may define the attribute. A `__getattr__` would need no
    such objects, but where a class has one, CPython 3.11 reads every attribute in 47 ns instead of 21.
    """

    def __init__(self, name: str, meant: str):
        self.name, self.meant = name, meant

    def __get__(self, instance: object, owner: type) -> NoReturn:
        meant = self.meant
        if self.name in getattr(instance, "callbacks", ()) and self.name not in LEARNER_WORDS:
            meant = f"learn.callbacks.{self.name}, where callbacks are"
        raise AttributeError(f"{owner.__name__} has no {self.name!r}. Did you mean {meant}?", name=self.name)

    def __repr__(self) -> str:
        return f"missing: use {self.meant}"


def hints(words: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """A class decorator: reading an attribute by another framework's name raises an error with ours."""

    def with_those(cls: Any) -> Any:
        names = cls.__dir__
        cls.__dir__ = lambda own: [
            name for name in names(own) if hasattr(type(own), name) or name in vars(own)
        ]
        for name, meant in words.items():
            if not hasattr(cls, name):
                setattr(cls, name, MissingAttribute(name, meant))
        return cls

    return with_those


def with_hints(cls: type[T]) -> type[T]:
    """The same for a learner, which has no attributes for its callbacks either."""
    return hints({**callback_names(), **LEARNER_WORDS})(cls)


def callback_names() -> dict[str, str]:
    """The names of callbacks, which fastai has as attributes: `learn.early_stopping`."""
    kinds = [one for one in vars(callbacks).values() if isinstance(one, type) and issubclass(one, Callback)]
    return {one.name: f"the callback {one.__name__}(), which is not among learn.callbacks" for one in kinds}


def slip_note(error: BaseException, learn: LearnerProtocol) -> str | None:
    """What was probably meant where a hook reads a missing attribute of the learner or itself; else None."""
    if not isinstance(error, AttributeError) or not error.name:
        return None
    if isinstance(error.obj, Callback) and (error.name == "learn" or hasattr(learn, error.name)):
        read = "" if error.name == "learn" else f".{error.name}"
        return f"a hook receives the learner as its argument: write learn{read}, not self.{error.name}"
    if error.obj is learn.inputs and isinstance(error.obj, tuple) and hasattr(Tensor, error.name):
        return (
            "learn.inputs is a tuple, because a model can take several inputs: write (inputs,) = learn.inputs"
        )
    if error.obj is not learn:
        return None
    if error.name in learn.callbacks:
        return f"callbacks are in learn.callbacks: write learn.callbacks.{error.name}"
    close = get_close_matches(error.name, [each for each in dir(learn) if each[0] != "_"], n=1, cutoff=0.7)
    return f"did you mean learn.{close[0]}?" if close else None
