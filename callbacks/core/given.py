"""Callbacks as users pass them: an instance, a class or a function, and what an instance must not assign."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from callbacks.core.contract import EVENTS, OPERATIONS, Callback, LearnerProtocol, Order
from callbacks.core.definition import check_event, check_hook


def as_callbacks(given: Iterable[Any], argument: str) -> list[Callback]:
    """The callbacks that the items of an argument mean; raises as `as_callback`."""
    return [as_callback(item, f"{argument}[{position}]") for position, item in enumerate(given)]


def as_callback(item: Any, place: str) -> Callback:
    """The callback that was meant: an instance as it is, a class that needs no arguments as an instance."""
    if isinstance(item, Callback):
        return item
    if isinstance(item, type) and issubclass(item, Callback):
        return instance_of(item, place)
    hint = ""
    if isinstance(item, (list, tuple)):
        hint = " Pass callbacks one by one, not a list within a list: write *callbacks."
    elif isinstance(item, str):
        words = "".join(map(str.capitalize, item.split("_"))) if item.islower() else item
        title = words if words.isidentifier() else "EarlyStopping"
        hint = f" Names are for recipes; here pass the object itself: from callbacks import {title}."
    elif callable(item) and not isinstance(item, type):
        hint = ' To make a callback from a function, write @on("after_batch") above it.'
    raise TypeError(
        f"{place} is {item!r} ({type(item).__name__}), which is not a callback: pass an instance "
        f"of a subclass of Callback.{hint}"
    )


def instance_of(cls: type[Callback], place: str) -> Callback:
    """An instance of a class that needs no arguments."""
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        title = cls.__name__
        raise TypeError(
            f"{place} is the class {title}, which needs arguments ({error}): pass {title}(...)."
        ) from None
    return cls()


def check_attributes(callbacks: list[Callback]) -> None:
    """Raise an error for what an instance has assigned and the loop would ignore: hooks, phases, names."""
    for callback in callbacks:
        hooks = sorted(vars(callback).keys() & EVENTS, key=EVENTS.index)
        if hooks:
            raise TypeError(
                f"{describe(callback)} sets self.{hooks[0]}, which would never be called: hooks are found on "
                f"the class. Write def {hooks[0]}(self, learn), or @on({hooks[0]!r}) above a function."
            )
        if not isinstance(callback.order, Order):
            phases = ", ".join(phase.name for phase in Order)
            raise TypeError(
                f"{describe(callback)}.order is {callback.order!r}: choose a phase, such as Order.MEASURE. "
                f"The phases are: {phases}."
            )
        if not isinstance(callback.name, str):
            raise TypeError(f"{type(callback).__name__}.name is {callback.name!r}: write it as a string.")


def overridden_by(callback: Callback) -> list[str]:
    """The operations that this callback overrides; an attribute such as `self.step = 0` does not."""
    names = set().union(*[vars(each) for each in type(callback).__mro__ if each is not object])
    return [operation for operation in OPERATIONS if operation in names]


def paths_of(callback: Callback) -> dict[str, str | Path]:
    """The files and folders that a callback writes to, by its attributes."""
    found = {name: getattr(callback, name, None) for name in callback.writes_to}
    return {name: path for name, path in found.items() if isinstance(path, (str, Path))}


def describe(callback: Callback) -> str:
    """How messages name a callback: its class, and its name if that is another one."""
    title = type(callback).__name__
    return title if callback.name == type(callback).name else f"{title} ({callback.name!r})"


def on(
    event: str, *, order: Order = Order.MEASURE, name: str | None = None
) -> Callable[[Callable[..., Any]], Callback]:
    """Make a callback from a function that takes the learner.

    >>> @on("after_epoch")
    ... def show_rate(learn):
    ...     print(learn.optimizer.param_groups[0]["lr"])
    >>> show_rate.name
    'show_rate'

    Args:
        event: the event to listen to, or the operation to override.
        order: the phase of the callback.
        name: the name of the callback; by default the function's name.

    Raises:
        TypeError: the event does not exist, or the function does not take exactly the learner.
    """

    def make_callback(function: Callable[..., Any]) -> Callback:
        def hook(self: Callback, learn: LearnerProtocol) -> Any:
            return function(learn)

        check_hook(function, event, owner="on")
        title = name or getattr(function, "__name__", event).replace("<lambda>", event)
        body = {
            event: hook,
            "order": order,
            "name": title,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
        }
        return type(title, (Callback,), body)()

    check_event(event, EVENTS + OPERATIONS)
    return make_callback
