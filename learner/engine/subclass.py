"""Refuse a subclass of the learner that overrides a private name by accident."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from learner.messages.arguments import check_state

OPERATIONS = "forward, compute_loss, backward or step"

COMPUTES = "computes"

#: Public names that no subclass may use: the learner stores its parts there.
RESERVED = {"loop", "optimizer_given"}


def check_subclass(cls: Any, base: type) -> None:
    """Refuse a class when it is defined, if the loop would run code that its author does not intend.

    Args:
        cls: a subclass of the learner.
        base: the learner.

    Raises:
        TypeError: the class or a mixin defines or assigns a private name of the learner, or defines a method
            where the learner has a value; or its `state` does not consist of names, or names what every
            learner saves.
    """
    check_state(cls, base)
    private, values = private_names(base), value_names(base)
    for owner in cls.__mro__:
        if owner in base.__mro__:
            continue
        title = f"{owner.__name__}.{{}}" if owner is cls else f"{cls.__name__}: {owner.__name__}.{{}}"
        for name, member in vars(owner).items():
            check_member(title.format(name), name, member, private, values)


def check_member(place: str, name: str, member: Any, private: set[str], values: dict[str, str]) -> None:
    """Check one member of a class for `check_subclass`."""
    if name in private:
        raise TypeError(
            f"{place} has the name of a private part of the learner, which would use it. To change the "
            f"training, override an operation, {OPERATIONS}, or write a callback; for your own helper choose "
            f"another name, such as my_{name.lstrip('_')}."
        )
    if name in values and (is_method(member) or (values[name] == COMPUTES and not is_code(member))):
        raise TypeError(
            f"{place} is {'a method' if is_method(member) else repr(member)}, but learn.{name} is a "
            f"value that the learner {values[name]}. Override an operation, {OPERATIONS}, or give it "
            "another name."
        )
    for assigned in assigned_by(member):
        if assigned in private:
            raise TypeError(
                f"{place} assigns self.{assigned}, a private part of the learner: give the attribute "
                f"another name, such as self.my_{assigned.lstrip('_')}."
            )


def private_names(base: type) -> set[str]:
    """The private names that the classes of the learner define or declare, and the reserved names."""
    names = {name for name in own_names(base) if name.startswith("_") and not name.startswith("__")}
    return names | RESERVED


def value_names(base: Any) -> dict[str, str]:
    """The public attributes of the learner that are not methods, and where each value comes from."""
    missing = object()
    found = {name: inspect.getattr_static(base, name, missing) for name in own_names(base) if name[0] != "_"}
    return {
        name: COMPUTES if isinstance(value, property) and value.fset is None else "assigns"
        for name, value in found.items()
        if value is missing or isinstance(value, property) or not is_code(value)
    }


def own_names(base: type) -> set[str]:
    """All names that a class and its bases define or declare."""
    classes = [each for each in base.__mro__ if each is not object]
    return {name for each in classes for name in (*vars(each), *vars(each).get("__annotations__", ()))}


def is_method(member: Any) -> bool:
    """Is a member a function, of whatever kind?"""
    return isinstance(member, (staticmethod, classmethod)) or inspect.isroutine(member)


def is_code(member: Any) -> bool:
    """Is a member a method, or another descriptor?"""
    return is_method(member) or hasattr(type(member), "__get__")


def assigned_by(member: Any) -> Iterator[str]:
    """The attributes of its first argument that a method assigns, including in functions inside it."""
    function: Any = member.fget if isinstance(member, property) else member
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and code.co_argcount:
        yield from assigned_in(code, code.co_varnames[0])


def assigned_in(code: CodeType, name: str) -> Iterator[str]:
    """The attributes of a local variable that code assigns: `self.x = 1` and `self.x += 1`."""
    first: Any = None
    second: Any = None
    for step in dis.get_instructions(code):
        is_plain = step.opname == "STORE_ATTR" and second is not None and loads(second, name)
        is_copied = step.opname == "LOAD_ATTR" and second is not None and second.opname == "COPY"
        if is_plain or (is_copied and first is not None and loads(first, name)):
            yield step.argval
        first, second = second, step
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and name in inner.co_freevars:
            yield from assigned_in(inner, name)


def loads(step: Any, name: str) -> bool:
    """Does an instruction load this local variable last? Python 3.13 loads two at once."""
    loaded = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
    return step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and loaded == name
