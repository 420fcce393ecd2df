"""The callbacks of a learner: in which order they run, and which one overrides an operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from keyword import iskeyword
from types import MethodType
from typing import Any, TypeVar

from callbacks.core.contract import EVENTS, OPERATIONS, Callback, LearnerProtocol, Order
from callbacks.core.given import as_callbacks, check_attributes, overridden_by
from callbacks.core.given import describe as describe
from callbacks.core.warning import Renamed, warn
from callbacks.core.when import set_window, window_of, windows_of

Hook = MethodType  # a bound method, whose `__self__` is the callback
T = TypeVar("T")

REMEDIES = {
    "zero_grad": "no callback zeroes the gradients, so they would add up from step to step. Add "
    "ZeroGrad: Learner(..., callbacks=[ZeroGrad()]).",
}

HINT = " Add callbacks with learn.add_callbacks(...), and remove them with learn.remove_callbacks(...)."


class Callbacks:
    """The callbacks of a learner, in the order in which they run.

    Find a callback by its name, as in `learn.callbacks.early_stopping`, or by its class, as
    `learn.callbacks[EarlyStopping]`. You can iterate over this object, take its `len`, and use `in` with
    instances, classes and names. It is immutable: `learn.add_callbacks` and `learn.remove_callbacks` replace
    it with a new one.

    Args:
        given: callbacks, or classes of callbacks that take no arguments.

    Raises:
        TypeError: something is not a callback, or a class needs arguments.
        ValueError: an instance or a name occurs twice, two callbacks override the same operation, or a
            callback that another one needs is missing.
    """

    hooks: dict[str, tuple[Hook, ...]]  #: what is called for each event
    overrides: dict[str, Callback]  #: the callback that overrides an operation, by operation

    def __init__(self, given: Iterable[Callback | type[Callback]] = ()):
        callbacks = [set_window(each) for each in as_callbacks(given, "callbacks")]
        check_attributes(callbacks)
        check_distinct(callbacks)
        check_needs(callbacks)
        self._callbacks = tuple(sorted(callbacks, key=lambda callback: callback.order))
        self._by_name = {callback.name: callback for callback in self._callbacks}
        self.hooks = hooks_of(self._callbacks)
        self.overrides = overrides_of(self._callbacks)

    def without(self, *callbacks: Callback) -> Callbacks:
        """All callbacks except these; quick, because their hooks are known.

        Raises:
            ValueError: a callback that stays needs one that would be removed.
        """
        gone = set(map(id, callbacks))  # not ==, which a callback may define
        left = Callbacks.__new__(Callbacks)
        left._callbacks = tuple(each for each in self._callbacks if id(each) not in gone)
        check_needs(left._callbacks)
        left._by_name = {each.name: each for each in left._callbacks}
        left.hooks = {
            event: hooks and tuple([hook for hook in hooks if id(hook.__self__) not in gone])
            for event, hooks in self.hooks.items()
        }
        left.overrides = {name: each for name, each in self.overrides.items() if id(each) not in gone}
        return left

    def named(self, name: str) -> Callback:
        """The callback of that name.

        Raises:
            KeyError: no callback has it; the message lists the names.
        """
        if name not in self._by_name:
            close = get_close_matches(name, self._by_name, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise KeyError(
                f"no callback is named {name!r}.{hint} Available: {', '.join(self._by_name) or 'none'}."
            )
        return self._by_name[name]

    doers = Renamed("overrides")  # vocabulary: quoted

    def __reduce__(self) -> tuple[Any, ...]:
        return Callbacks, (self._callbacks,)  # the hooks of a copy are those of its own callbacks

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_by_name":  # copy and pickle ask before it is filled
            raise AttributeError(name)
        try:
            return self.named(name)
        except KeyError as error:
            raise AttributeError(f"{error.args[0]}{HINT if hasattr(list, name) else ''}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_callbacks", "_by_name", "hooks", "overrides"):
            raise AttributeError(f"learn.callbacks.{name} cannot be assigned.{HINT}")
        super().__setattr__(name, value)

    def __getitem__(self, key: type[T]) -> T:
        """The one callback of that class; for `When`, the one window.

        Raises:
            KeyError: there is none of that class, or more than one.
        """
        if not isinstance(key, type):
            name = key if isinstance(key, str) else "early_stopping"
            raise TypeError(
                f"learn.callbacks[{key!r}]: pass a class, as in learn.callbacks[EarlyStopping]. To use a "
                f"name, write learn.callbacks.{name}."
            )
        found = [meant for each in self._callbacks if (meant := of_class(each, key))]
        if len(found) == 1:
            return found[0]  # type: ignore[return-value]
        names = ", ".join(each.name for each in found or self._callbacks) or "none"
        problem = f"{len(found)} callbacks are" if found else "no callback is"
        hint = "Use the name of one" if found else "Available"
        raise KeyError(f"{problem} of the class {key.__name__}. {hint}: {names}.")

    def __contains__(self, key: object) -> bool:
        if isinstance(key, type):
            return any(of_class(each, key) for each in self._callbacks)
        if isinstance(key, str):
            return key in self._by_name
        return any(is_meant(each, key) for each in self._callbacks)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def __len__(self) -> int:
        return len(self._callbacks)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._by_name]

    def __repr__(self) -> str:
        return f"Callbacks({', '.join(repr(window_of(each) or each) for each in self._callbacks)})"


#: Names that mean something else after `learn.callbacks.`.
TAKEN = {*dir(Callbacks), *Callbacks.__annotations__}


def of_class(callback: Callback, kind: type) -> Callback | None:
    """The callback if it is of this class, or its window if that is; else None."""
    return next((each for each in (callback, *windows_of(callback)) if isinstance(each, kind)), None)


def is_meant(callback: Callback, given: object) -> bool:
    """Is this the callback itself or a window of it? Not by ==, which a callback may define."""
    return any(given is each for each in (callback, *windows_of(callback)))


def hooks_of(callbacks: Sequence[Callback]) -> dict[str, tuple[Hook, ...]]:
    """For each event the hooks in the order in which they run; `cleanup_fit` runs in reverse."""
    defined = [(each, EVENTS if window_of(each) else names_defined_by(each)) for each in callbacks]
    found: dict[str, tuple[Hook, ...]] = {}
    if any(each.silences for each in callbacks):
        defined = [(one, names) for one, names in defined if one.order != Order.REPORT or one.on_every_rank]
    for event in EVENTS:
        called = [
            each for each, names in defined if event in names and (window_of(each) or each).listens_to(event)
        ]
        ordered = called[::-1] if event == "cleanup_fit" else called
        found[event] = tuple([hook_of(each, event) for each in ordered])
    return found


def names_defined_by(callback: Callback) -> set[str]:
    """All names that its classes other than `Callback` define: it listens to no other event."""
    return set().union(*[vars(each) for each in type(callback).__mro__ if each not in (Callback, object)])


def hook_of(callback: Callback, event: str) -> Hook:
    """The hook as a method of its callback, by which errors name it, even if it is static or a partial."""
    window = window_of(callback)
    if window is not None:
        return MethodType(window.hook(event), callback)
    hook = getattr(callback, event)
    if getattr(hook, "__self__", None) is callback:
        return hook
    return MethodType(lambda _callback, learn: hook(learn), callback)


def overrides_of(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """The callback that overrides each operation, for those that one overrides."""
    found: dict[str, Callback] = {}
    overriding = [(each, names) for each in callbacks if (names := overridden_by(each))]
    for operation in OPERATIONS:
        able = [each for each, names in overriding if operation in names]
        able = [each for each in able if operation not in each.yields] or able
        if len(able) > 1:
            raise ValueError(
                f"two callbacks implement {operation!r}: {describe(able[0])} and {describe(able[1])}. "
                "Only one may: remove the other."
            )
        if able:
            found[operation] = able[0]
    return found


def run_forward(learn: LearnerProtocol) -> None:
    """Run the operation `forward`, by the callback that overrides it or by the learner."""
    override = learn.callbacks.overrides.get("forward")
    if override is None:
        learn.forward()
    else:
        override.forward(learn)


def check_distinct(callbacks: list[Callback]) -> None:
    """Raise an error for an instance or a name that occurs twice; warn of names that no dot can precede."""
    seen: dict[str, Callback] = {}
    for callback in callbacks:
        name, other = callback.name, seen.get(callback.name)
        if other is callback:
            raise ValueError(
                f"the same {describe(callback)} was passed twice: pass it once, or create two instances."
            )
        if other is not None:
            raise ValueError(
                f"two callbacks are named {name!r}: {other!r} and {callback!r}. Leave one out, or give one "
                f"another name, as in name='my_{name}'."
            )
        if name in TAKEN or not name.isidentifier() or iskeyword(name):
            warn(
                f"a callback called {name!r} cannot be accessed as learn.callbacks.{name}: give it another "
                "name, as in name='my_callback'."
            )
        seen[name] = callback


def check_needs(callbacks: Sequence[Callback]) -> None:
    """Raise an error for a callback without one that it needs."""
    for callback in callbacks:
        for needed in callback.needs:
            if not any(of_class(other, needed) for other in callbacks):
                raise ValueError(
                    f"{describe(callback)} needs {needed.__name__}: add {needed.__name__}() to the callbacks."
                )
