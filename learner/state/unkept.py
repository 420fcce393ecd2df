"""Report tensors of the model that snapshots and checkpoints do not hold."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import nn

from callbacks.core.modules import LOSS
from callbacks.core.warning import warn
from callbacks.model.plain_attributes import LONGEST, NOT_KEPT, is_storable, places, tensors_in
from learner.messages.problems import listed
from learner.state.protocol import FullLearner

Marks = dict[str, Any]

MOST = 1_000  # items of a long container that are examined


def without_unkept(learn: FullLearner, contents: dict[str, Any]) -> dict[str, Any]:
    """The contents of a file, with a placeholder for each attribute of a type that a file cannot hold."""
    parts = {"model": contents, LOSS: contents[LOSS] or {"plain": {}}}
    lost: list[str] = []
    for title, state in parts.items():
        problems = [key for key, value in state["plain"].items() if not is_storable(value)]
        lost += [f"{title}.{key}" for key in problems]
        state["plain"] |= dict.fromkeys(problems, NOT_KEPT)
    report(learn, [*lost, *changed(learn.model, learn.hidden_at_start)])
    return contents


def report(learn: FullLearner, names: list[str]) -> None:
    """Warn of each of these names once."""
    new = [name for name in names if name not in learn.reported]
    learn.reported.update(new)
    if new:
        warn(
            f"the tensors in {listed(new)} change, but snapshots and checkpoints do not contain them, so "
            "results may differ after a restore: register a buffer, or store them in an attribute of the "
            f"module that is a tensor, or a tuple, list or dict of at most {LONGEST} tensors."
        )


def hidden_tensors(module: nn.Module) -> Marks:
    """Marks of the tensors in objects and long containers of modules; a mark changes with its tensor."""
    found: Marks = {}
    for key, owner, name in places(module):
        value = vars(owner)[name]
        if isinstance(value, (list, tuple, dict)) and len(value) > LONGEST:
            found[key] = [len(value), *marks_in(islice(parts_of(value), MOST))]
        elif hasattr(value, "__dict__") and not is_ignored(value):
            found[key] = marks_in(vars(value).values())
    return found


def marks_in(parts: Iterable[Any]) -> list[tuple[int, int]]:
    """The identity of each tensor in these values, and how often it was written to."""
    return [(id(each), each._version) for part in parts for each in tensors_in(part)]


def parts_of(value: Any) -> Iterable[Any]:
    """The items of a container."""
    return value.values() if isinstance(value, dict) else value


def is_ignored(value: Any) -> bool:
    """Is this an object of torch, a module, a class or a function? Its tensors are not the model's state."""
    is_from_torch = type(value).__module__.startswith("torch")
    return isinstance(value, (nn.Module, type)) or callable(value) or is_from_torch


def changed(module: nn.Module, before: Marks | None) -> list[str]:
    """The names whose marks have changed."""
    if not before:
        return []
    now = hidden_tensors(module)
    return [f"model.{key}" for key, mark in before.items() if now.get(key, mark) != mark]
