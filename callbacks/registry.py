"""The plug-ins of a learner: who is there, in which order, and who does what."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, TypeVar

from callbacks.contract import EVENTS, OPERATIONS, Callback, LearnerWarning

Hook = Callable[[Any], Any]
T = TypeVar("T", bound=Callback)

REMEDIES = {
    "zero_grad": "nobody zeroes the gradients, so they would add up from step to step. "
    "Add the plug-in that does: Learner(..., callbacks=[ZeroGrad()]).",
}


class Callbacks:
    """The plug-ins of a learner, in the order in which they are heard.

    `learn.callbacks.early_stopping` reaches one by its name, `learn.callbacks[EarlyStopping]` by its class;
    it can be iterated, has a length, and knows `in` for instances, classes and names. It never changes: the
    learner's `add_callbacks` and `remove_callbacks` put another one in its place.

    Args:
        given: plug-ins, or plug-in classes that take no arguments.

    Raises:
        TypeError: something is no plug-in, or a class needs arguments.
        ValueError: one instance twice, one name twice, two doers of one operation, or a plug-in lacks one it
            needs.
    """

    def __init__(self, given: Iterable[Callback | type[Callback]] = ()):
        plugins = [as_plugin(item, position) for position, item in enumerate(given)]
        check_distinct(plugins)
        check_needs(plugins)
        self._plugins = tuple(sorted(plugins, key=lambda plugin: plugin.order))
        self._by_name = {plugin.name: plugin for plugin in self._plugins}
        self.hooks: dict[str, tuple[Hook, ...]] = {event: self._listeners(event) for event in EVENTS}
        self.doers: dict[str, Callback] = self._find_doers()

    def _listeners(self, event: str) -> tuple[Hook, ...]:
        plugins = reversed(self._plugins) if event == "cleanup_fit" else self._plugins
        return tuple(getattr(plugin, event) for plugin in plugins if listens(plugin, event))

    def _find_doers(self) -> dict[str, Callback]:
        doers: dict[str, Callback] = {}
        for operation in OPERATIONS:
            for plugin in self._plugins:
                if not hasattr(type(plugin), operation):  # a setting that is called `step` is no operation
                    continue
                if operation in doers:
                    raise ValueError(
                        f"two plug-ins do {operation!r}: {describe(doers[operation])} and "
                        f"{describe(plugin)}. One operation "
                        f"has one doer: leave one of them out."
                    )
                doers[operation] = plugin
        return doers

    def named(self, name: str) -> Callback:
        """The plug-in of that name.

        Raises:
            KeyError: there is none; the message names those that there are.
        """
        if name not in self._by_name:
            close = get_close_matches(name, self._by_name, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise KeyError(
                f"no plug-in is called {name!r}.{hint} There are: {', '.join(self._by_name) or 'none'}."
            )
        return self._by_name[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.named(name)
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __getitem__(self, key: type[T]) -> T:
        """The one plug-in of that class.

        Raises:
            KeyError: there is none of that class, or more than one.
        """
        if not isinstance(key, type):
            raise TypeError(
                f"learn.callbacks[{key!r}]: pass a class; by name it is learn.callbacks.early_stopping."
            )
        found = [plugin for plugin in self._plugins if isinstance(plugin, key)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(plugin.name for plugin in found or self._plugins) or "none"
        problem = f"{len(found)} plug-ins are" if found else "no plug-in is"
        raise KeyError(f"{problem} of the class {key.__name__}. Reach one by its name: {names}.")

    def __contains__(self, key: object) -> bool:
        if isinstance(key, type):
            return any(isinstance(plugin, key) for plugin in self._plugins)
        return key in self._by_name or any(plugin is key for plugin in self._plugins)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._plugins)

    def __len__(self) -> int:
        return len(self._plugins)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._by_name]

    def __repr__(self) -> str:
        return f"Callbacks({', '.join(map(repr, self._plugins))})"


def listens(plugin: Callback, event: str) -> bool:
    """Does this plug-in define a method for this event?"""
    return getattr(type(plugin), event) is not getattr(Callback, event)


def describe(plugin: Callback) -> str:
    """How messages name a plug-in: its class, and its name where that tells more."""
    title = type(plugin).__name__
    return title if plugin.name == type(plugin).name else f"{title} ({plugin.name!r})"


def as_plugin(item: Any, position: int) -> Callback:
    """The plug-in that was meant: an instance as it is, a class that needs no arguments as an instance."""
    if isinstance(item, Callback):
        return item
    if isinstance(item, type) and issubclass(item, Callback):
        try:
            inspect.signature(item).bind()
        except TypeError as error:
            title = item.__name__
            raise TypeError(
                f"callbacks[{position}] is the class {title}, which needs arguments ({error}): pass "
                f"{title}(...)."
            ) from None
        return item()
    hint = ""
    if callable(item):
        hint = ' To make a plug-in of a function, write @on("after_batch") above it.'
    raise TypeError(
        f"callbacks[{position}] is {item!r} ({type(item).__name__}), which is no plug-in: pass an instance "
        f"of a subclass of Callback.{hint}"
    )


def check_distinct(plugins: list[Callback]) -> None:
    """Refuse the same instance twice and the same name twice; warn of names that cannot be reached by a "
    "dot."""
    seen: dict[str, Callback] = {}
    for plugin in plugins:
        other = seen.get(plugin.name)
        if other is plugin:
            raise ValueError(f"the same {describe(plugin)} was passed twice: pass it once, or make two.")
        if other is not None:
            raise ValueError(
                f"two plug-ins are called {plugin.name!r}: {other!r} and {plugin!r}. Leave one out, or give "
                f"one a name of its own: "
                f"{type(plugin).__name__}(..., name='my_{plugin.name}')."
            )
        if hasattr(Callbacks, plugin.name) or not plugin.name.isidentifier():
            message = f"the name {plugin.name!r} cannot be reached as learn.callbacks.{plugin.name}; choose "
            "another one."
            warnings.warn(message, LearnerWarning, stacklevel=4)
        seen[plugin.name] = plugin


def check_needs(plugins: list[Callback]) -> None:
    """Refuse a plug-in without one that it cannot work without."""
    for plugin in plugins:
        for needed in plugin.needs:
            if not any(isinstance(other, needed) for other in plugins):
                raise ValueError(
                    f"{describe(plugin)} needs {needed.__name__}: add {needed.__name__}() to the callbacks."
                )
