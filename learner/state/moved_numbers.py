"""The numbers in plain attributes of model and loss that training changes: state, where others are settings.

A counter, an annealed temperature, and the flag of a layer that is initialized by its first batch belong to
a file as weights do. A number that no training has changed stays what the script says.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from callbacks.core.modules import LOSS, loss_module
from callbacks.model.plain_attributes import attributes, is_value, mark_of


class MovedNumbers:
    """Knows the numbers with which a learner began to train, and the names of those that have changed."""

    def __init__(self) -> None:
        self.begun: dict[str, str] | None = None
        self.known: set[str] = set()  # from files

    def begin(self, learn: Any) -> None:
        """Note the numbers before the first fit."""
        if self.begun is None:
            self.begun = numbers_in(learn)

    def names(self, learn: Any) -> list[str]:
        """The names of those that are different now, as `model.temperature`, and those that files named."""
        if self.begun is None:
            return sorted(self.known)
        now = numbers_in(learn).items()
        return sorted(self.known | {name for name, value in now if self.begun.get(name) != value})


def numbers_in(learn: Any) -> dict[str, str]:
    """Marks of the numbers, flags and Nones of model and loss, and of short containers of such, by name."""
    modules = {"model": learn.model, LOSS: loss_module(learn.loss_func)}
    return {
        f"{place}.{key}": mark_of(value)
        for place, module in modules.items()
        if module is not None
        for key, value in attributes(module)
        if is_value(value)
    }


def moved_in(state: dict[str, Any], place: str) -> Collection[str] | None:
    """The keys of the numbers to restore in the model or the loss; None, for all, of a snapshot."""
    if "moved" not in state:
        return None
    return {name.removeprefix(f"{place}.") for name in state["moved"] if name.startswith(f"{place}.")}
