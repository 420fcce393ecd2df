"""The numbers in plain attributes of the model and the loss that training changes.

A counter, an annealed temperature, or the flag of a layer that its first batch initializes is state, and a
file holds it like the weights. A number that training has not changed is a setting, and keeps the value from
the script.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import LOSS, loss_module
from callbacks.model.plain_attributes import attributes, is_value, mark_of


class MovedNumbers:
    """The numbers before the first fit, and the names of those that have changed since."""

    def __init__(self) -> None:
        self.at_start: dict[str, str] | None = None
        self.known: set[str] = set()  # from files

    def begin(self, learn: LearnerProtocol) -> None:
        """Note the numbers before the first fit."""
        if self.at_start is None:
            self.at_start = numbers_in(learn)

    def names(self, learn: LearnerProtocol) -> list[str]:
        """The names of the numbers that have changed, such as `model.temperature`, and those from files."""
        if self.at_start is None:
            return sorted(self.known)
        now = numbers_in(learn).items()
        return sorted(self.known | {name for name, value in now if self.at_start.get(name) != value})


def numbers_in(learn: LearnerProtocol) -> dict[str, str]:
    """Marks of the numbers, flags, Nones, and short containers of them in the model and the loss, by name."""
    modules = {"model": learn.model, LOSS: loss_module(learn.loss_func)}
    return {
        f"{place}.{key}": mark_of(value)
        for place, module in modules.items()
        if module is not None
        for key, value in attributes(module)
        if is_value(value)
    }


def moved_in(state: dict[str, Any], place: str) -> Collection[str] | None:
    """The names of the numbers to restore in the model or the loss; None for all, as in a snapshot."""
    if "moved" not in state:
        return None
    return {name.removeprefix(f"{place}.") for name in state["moved"] if name.startswith(f"{place}.")}
