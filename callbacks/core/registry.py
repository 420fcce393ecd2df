"""The plug-ins of a learner: who is there, in which order, and who does what."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from keyword import iskeyword
from types import MethodType
from typing import Any, TypeVar

from callbacks.core.contract import EVENTS, OPERATIONS, Callback, Order
from callbacks.core.warning import warn

Hook = MethodType  # a bound method: its plug-in is known
T = TypeVar("T", bound=Callback)

REMEDIES = {
    "zero_grad": "nobody zeroes the gradients, so they would add up from step to step. "
    "Add the plug-in that does: Learner(..., callbacks=[ZeroGrad()]).",
}

CURE = " Plug-ins are added with learn.add_callbacks(...) and taken away with learn.remove_callbacks(...)."


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

    hooks: dict[str, tuple[Hook, ...]]  #: who listens to each event
    doers: dict[str, Callback]  #: who does each operation

    def __init__(self, given: Iterable[Callback | type[Callback]] = ()):
        plugins = as_plugins(given, "callbacks")
        check_attributes(plugins)
        check_distinct(plugins)
        check_needs(plugins)
        self._plugins = tuple(sorted(plugins, key=lambda plugin: plugin.order))
        self._by_name = {plugin.name: plugin for plugin in self._plugins}
        defined = [(plugin, defined_by(plugin)) for plugin in self._plugins]
        self.hooks = {event: listeners(event, defined) for event in EVENTS}
        self.doers = {}
        for operation in OPERATIONS:
            doers = [plugin for plugin, names in defined if operation in names]
            doers = [each for each in doers if operation not in each.yields] or doers
            if len(doers) > 1:
                raise ValueError(
                    f"two plug-ins do {operation!r}: {describe(doers[0])} and {describe(doers[1])}. One "
                    "operation has one doer: leave one of them out."
                )
            if doers:
                self.doers[operation] = doers[0]

    def without(self, *plugins: Callback) -> Callbacks:
        """The others. What they listen to and do was found when they were put together, so this is quick.

        Raises:
            ValueError: one of them needs one that would go.
        """
        gone = set(map(id, plugins))  # not ==, which a plug-in may define
        left = Callbacks.__new__(Callbacks)
        left._plugins = tuple(plugin for plugin in self._plugins if id(plugin) not in gone)
        check_needs(left._plugins)
        left._by_name = {plugin.name: plugin for plugin in left._plugins}
        left.hooks = {
            event: hooks and tuple([hook for hook in hooks if id(hook.__self__) not in gone])
            for event, hooks in self.hooks.items()
        }
        left.doers = {each: plugin for each, plugin in self.doers.items() if id(plugin) not in gone}
        return left

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

    def __reduce__(self) -> tuple[Any, ...]:
        return Callbacks, (self._plugins,)  # the hooks of a copy are those of its own callbacks

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_by_name":  # asked by copy and pickle before there is anything
            raise AttributeError(name)
        try:
            return self.named(name)
        except KeyError as error:
            raise AttributeError(f"{error.args[0]}{CURE if hasattr(list, name) else ''}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_plugins", "_by_name", "hooks", "doers"):
            raise AttributeError(f"learn.callbacks.{name} cannot be assigned.{CURE}")
        super().__setattr__(name, value)

    def __getitem__(self, key: type[T]) -> T:
        """The one callback of that class; one that a `When` holds is found by its own class.

        Raises:
            KeyError: there is none of that class, or more than one.
        """
        if not isinstance(key, type):
            name = key if isinstance(key, str) else "early_stopping"
            raise TypeError(
                f"learn.callbacks[{key!r}]: pass a class, as in learn.callbacks[EarlyStopping]; by name it "
                f"is learn.callbacks.{name}."
            )
        found = [meant for plugin in self._plugins if (meant := of_class(plugin, key))]
        if len(found) == 1:
            return found[0]  # type: ignore[return-value]
        names = ", ".join(plugin.name for plugin in found or self._plugins) or "none"
        problem = f"{len(found)} plug-ins are" if found else "no plug-in is"
        cure = "Reach one by its name" if found else "There are"
        raise KeyError(f"{problem} of the class {key.__name__}. {cure}: {names}.")

    def __contains__(self, key: object) -> bool:
        if isinstance(key, type):
            return any(of_class(plugin, key) for plugin in self._plugins)
        if isinstance(key, str):
            return key in self._by_name
        return any(key is plugin or key is unwrapped(plugin) for plugin in self._plugins)  # == may be defined

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._plugins)

    def __len__(self) -> int:
        return len(self._plugins)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._by_name]

    def __repr__(self) -> str:
        return f"Callbacks({', '.join(map(repr, self._plugins))})"


def unwrapped(plugin: Callback) -> Callback:
    """The callback itself, where a `When` holds it."""
    return plugin if plugin.wrapped is None else unwrapped(plugin.wrapped)


def of_class(plugin: Callback, kind: type) -> Callback | None:
    """The callback, or the one that it holds, if that is of this class."""
    if isinstance(plugin, kind):
        return plugin
    return None if plugin.wrapped is None else of_class(plugin.wrapped, kind)


#: Names that mean something else after `learn.callbacks.`.
TAKEN = {*dir(Callbacks), *Callbacks.__annotations__}


def defined_by(plugin: Callback) -> set[str]:
    """All names that its classes define beside `Callback`: what is not there it neither hears nor does."""
    return set().union(*[vars(each) for each in type(plugin).__mro__ if each not in (Callback, object)])


def listeners(event: str, defined: list[tuple[Callback, set[str]]]) -> tuple[Hook, ...]:
    """The hooks of an event, of plug-ins with the names that they define, in the order of being heard."""
    found = [plugin for plugin, names in defined if event in names and listens(plugin, event)]
    return tuple([hook_of(plugin, event) for plugin in (found[::-1] if event == "cleanup_fit" else found)])


def listens(plugin: Callback, event: str) -> bool:
    """Does this plug-in define a method for this event? One that holds another asks that."""
    return plugin.listens_to(event)


def does(plugin: Callback, operation: str) -> bool:
    """Does this plug-in define a method for this operation? An attribute such as `self.step = 0` is none."""
    return hasattr(type(plugin), operation)


def hook_of(plugin: Callback, event: str) -> Hook:
    """The hook as a method of its plug-in, by which errors name it, also where it is static or a partial."""
    hook = getattr(plugin, event)
    if getattr(hook, "__self__", None) is plugin:
        return hook
    return MethodType(lambda _plugin, learn: hook(learn), plugin)


def run_forward(learn: Any) -> None:
    """Run the operation `forward`, by the callback that overrides it or by the learner."""
    override = learn.callbacks.doers.get("forward")
    if override is None:
        learn.forward()
    else:
        override.forward(learn)


def describe(plugin: Callback) -> str:
    """How messages name a plug-in: its class, and its name where that tells more."""
    title = type(plugin).__name__
    return title if plugin.name == type(plugin).name else f"{title} ({plugin.name!r})"


def as_plugins(given: Iterable[Any], argument: str) -> list[Callback]:
    """The plug-ins that were meant by the items of an argument; raises as `as_plugin`."""
    return [as_plugin(item, f"{argument}[{position}]") for position, item in enumerate(given)]


def as_plugin(item: Any, place: str) -> Callback:
    """The plug-in that was meant: an instance as it is, a class that needs no arguments as an instance.

    Raises:
        TypeError: it is none, or its class needs arguments; `place` is how the message names it.
    """
    if isinstance(item, Callback):
        return item
    if isinstance(item, type) and issubclass(item, Callback):
        try:
            inspect.signature(item).bind()
        except TypeError as error:
            title = item.__name__
            raise TypeError(
                f"{place} is the class {title}, which needs arguments ({error}): pass {title}(...)."
            ) from None
        return item()
    hint = ""
    if isinstance(item, (list, tuple)):
        hint = " Give plug-ins one by one, not a list within a list: *plugins does that."
    elif callable(item) and not isinstance(item, type):
        hint = ' To make a plug-in of a function, write @on("after_batch") above it.'
    raise TypeError(
        f"{place} is {item!r} ({type(item).__name__}), which is no plug-in: pass an instance "
        f"of a subclass of Callback.{hint}"
    )


def check_attributes(plugins: list[Callback]) -> None:
    """Refuse what an instance has set in a way that would be passed over: hooks, phases, names."""
    for plugin in plugins:
        hooks = sorted(vars(plugin).keys() & EVENTS, key=EVENTS.index)
        if hooks:
            raise TypeError(
                f"{describe(plugin)} sets self.{hooks[0]}, which would never be called: hooks are found on "
                f"the class. Write def {hooks[0]}(self, learn), or @on({hooks[0]!r}) above a function."
            )
        if not isinstance(plugin.order, Order):
            raise TypeError(
                f"{describe(plugin)}.order is {plugin.order!r}: choose a phase, as Order.MEASURE. There are: "
                f"{', '.join(phase.name for phase in Order)}."
            )
        if not isinstance(plugin.name, str):
            raise TypeError(f"{type(plugin).__name__}.name is {plugin.name!r}: write it as a string.")


def check_distinct(plugins: list[Callback]) -> None:
    """Refuse the same instance twice and the same name twice; warn of names that no dot reaches."""
    seen: dict[str, Callback] = {}
    for plugin in plugins:
        name, other = plugin.name, seen.get(plugin.name)
        if other is plugin:
            raise ValueError(f"the same {describe(plugin)} was passed twice: pass it once, or make two.")
        if other is not None:
            raise ValueError(
                f"two plug-ins are called {name!r}: {other!r} and {plugin!r}. Leave one out, or give one "
                f"a name of its own, as name='my_{name}'."
            )
        if name in TAKEN or not is_word(name):
            warn(
                f"a plug-in called {name!r} cannot be reached as learn.callbacks.{name}: give it another "
                "name, as name='my_plugin'."
            )
        seen[name] = plugin


def is_word(name: str) -> bool:
    """Can it stand after a dot?"""
    return name.isidentifier() and not iskeyword(name)


def check_needs(plugins: Sequence[Callback]) -> None:
    """Refuse a plug-in without one that it cannot work without."""
    for plugin in plugins:
        for needed in plugin.needs:
            if not any(of_class(other, needed) for other in plugins):
                raise ValueError(
                    f"{describe(plugin)} needs {needed.__name__}: add {needed.__name__}() to the callbacks."
                )
