"""Programs that outlive the fit in which they were made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils import _pytree as pytree

from callbacks.whole.program import Program
from callbacks.whole.values import is_atom


@dataclass
class Stock:
    """The programs of all bindings that have the same signature."""

    owners: list[Callable[[], Any]]  #: what the signature tells by which object it is
    is_light: bool  #: is nothing of the learner held but weakly, so that it may outlive the fit?
    unused: frozenset[str] = frozenset()  #: names of parameters that have no part in the loss
    programs: dict[Any, Program] = field(default_factory=dict)  #: by the kind of batch
    old: dict[Any, Program] = field(default_factory=dict)  #: those of the fit before, to be proven again

    @classmethod
    def of(cls, owners: list[Any]) -> Stock:
        """An empty one."""
        is_light = all(is_weakly_held(each) or is_plain(each) for each in owners)
        return cls([held(each) for each in owners], is_light)

    @property
    def is_alive(self) -> bool:
        """Are the objects still there? Else others may have taken their ids."""
        return all(owner() is not None for owner in self.owners)

    def age(self) -> None:
        """Go over to the next fit: what was not used in the last one is let go."""
        self.programs, self.old = {}, self.programs


def is_plain(value: Any) -> bool:
    """Does it hold nothing but what never changes?"""
    return all(map(is_atom, pytree.tree_leaves(value)))


def held(value: Any) -> Callable[[], Any]:
    """A call that gives the object, or None when it is gone; what cannot be held weakly is held."""
    return weakref.ref(value) if is_weakly_held(value) else lambda: value


def is_weakly_held(value: Any) -> bool:
    """Can there be weak references to it? Not to lists and dicts."""
    try:
        return weakref.ref(value) is not None
    except TypeError:
        return False
