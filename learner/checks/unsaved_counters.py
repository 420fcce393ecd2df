"""Find numbers that a user's callback counts up, and that no checkpoint holds."""

from __future__ import annotations

import dis
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from torch import Tensor

from callbacks.core.contract import EVENTS, Callback
from callbacks.core.output import listed

OURS = ("callbacks.", "learner.")
OUTSIDE = ("__init__", "before_fit", "after_fit", "cleanup_fit")  # called in a resumed fit too
IN_BATCH = EVENTS[EVENTS.index("before_batch") : EVENTS.index("after_batch")]


def not_saved(callbacks: Iterable[Callback], position: dict[str, Any]) -> str:
    """What to add to the line with the position from which a fit resumes; empty if all is saved."""
    found = unsaved_counters(callbacks, in_pass=position["phase"] is not None)
    return f"; no `state` lists {listed(found)}, so the count starts again" if found else ""


def unsaved_counters(callbacks: Iterable[Callback], *, in_pass: bool) -> list[str]:
    """The counters that start again when a fit resumes, as `"CountBatches.n"`.

    Args:
        callbacks: of the fit.
        in_pass: within a pass? Otherwise those that other methods set are left out, such as sums of a pass.
    """
    return [
        f"{type(each).__name__}.{name}"
        for each in callbacks
        if type(each).state_dict is Callback.state_dict
        for name in sorted(counters_of(type(each), in_pass=in_pass) - {*each.state})
        if isinstance(getattr(each, name, 0), (int, float, Tensor))
    ]


def counters_of(kind: type[Callback], *, in_pass: bool) -> set[str]:
    """The attributes that methods of a class compute from their own values, as `self.n += 1` does."""
    classes = [each for each in kind.__mro__ if issubclass(each, Callback) and each is not Callback]
    methods = [
        (name, changes_of(method))
        for each in classes
        if not each.__module__.startswith(OURS)
        for name, method in vars(each).items()
        if isinstance(method, FunctionType) and name not in OUTSIDE
    ]
    counted = {name for _, (added, _) in methods for name in added}
    for method, (_, assigned) in methods:
        if not in_pass or method in IN_BATCH:
            counted -= assigned
    return counted


def changes_of(method: FunctionType) -> tuple[set[str], set[str]]:
    """The attributes of `self` that a method computes from their own values, and those that it only sets.

    The bytecode shows it, even without the source: an arithmetic operation is between a read and a write. A
    jump between them, as in `self.size = self.size or n + 1`, shows that the value is computed only once.
    """
    counted, assigned, read = set[str](), set[str](), dict[str, bool]()
    owner = ""  # the variable on top of the stack
    for each in dis.get_instructions(method):
        if each.opname == "LOAD_ATTR" and owner in method.__code__.co_varnames[:1]:
            read[each.argval] = False
        elif each.opname == "BINARY_OP":
            read = dict.fromkeys(read, True)
        elif each.opname == "STORE_ATTR" and read.get(each.argval):
            counted.add(each.argval)
        elif each.opname == "STORE_ATTR" and owner in method.__code__.co_varnames[:1]:
            assigned.add(each.argval)
        if "JUMP" in each.opname or each.opname in ("STORE_ATTR", "POP_TOP"):
            read = {}
        owner = on_top(each, owner)
    return counted - assigned, assigned


def on_top(instruction: dis.Instruction, before: str) -> str:
    """The local variable that is on top of the stack after an instruction."""
    name = instruction.opname
    if name.startswith(("LOAD_FAST", "STORE_FAST_LOAD_FAST")):
        found = instruction.argval
        return str(found[-1] if isinstance(found, tuple) else found)
    return before if name in ("COPY", "CACHE") else ""
