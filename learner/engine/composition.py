"""Which plug-ins are there, and who does which operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from callbacks.core.contract import OPERATIONS, Callback
from callbacks.core.given import as_callbacks
from callbacks.core.registry import Callbacks, Hook, describe, is_meant, of_class
from callbacks.core.when import passed
from callbacks.guard.stop_on_nan import StopOnNaN
from callbacks.place.device import DevicePlacement
from callbacks.record.metrics import Metrics
from callbacks.record.progress import Progress
from callbacks.record.recorder import Recorder
from callbacks.step.gradient import ZeroGrad
from learner.engine.emergency import save_before_failing
from learner.messages.keywords import RATE_HINT
from learner.state.position import nobody

#: The plug-ins of every learner that is not told otherwise.
DEFAULT_CALLBACKS = (ZeroGrad, DevicePlacement, StopOnNaN, Metrics, Recorder, Progress)

Doer = Callable[[Any], Any]
Operations = Mapping[str, Doer]


def with_defaults(
    given: Iterable[Callback | type[Callback]],
    metrics: Iterable[Any],
    defaults: Iterable[Callback | type[Callback]],
    learner_class: type,
    operations: Operations,
) -> list[Callback]:
    """The defaults, then what was given. A default gives way to one of its class or a doer of its work."""
    plugins = passed(as_callbacks(as_list(given, "callbacks"), "callbacks"))
    metrics = as_list(metrics, "metrics")
    unasked = as_callbacks(as_list(defaults, "defaults"), "defaults")
    if metrics:
        if any(of_class(plugin, Metrics) for plugin in plugins):
            raise ValueError(
                "metrics were given twice: with metrics=[...] and as the plug-in Metrics(...). Put all into "
                "the plug-in."
            )
        unasked = [plugin for plugin in unasked if not isinstance(plugin, Metrics)] + [Metrics(*metrics)]

    def gives_way(default: Callback) -> bool:
        done = [operation for operation in OPERATIONS if hasattr(type(default), operation)]
        taken = any(hasattr(type(plugin), operation) for plugin in plugins for operation in done)
        return (
            taken
            or any(isinstance(plugin, type(default)) for plugin in plugins)
            or any(overrides(learner_class, operations, each) for each in done)
        )

    return [*(default for default in unasked if not gives_way(default)), *plugins]


def as_list(given: Any, argument: str) -> list[Any]:
    """What was given as a list; one plug-in or metric alone is a mistake that is told."""
    if isinstance(given, (Callback, str)) or callable(given) or not isinstance(given, Iterable):
        form = (
            "metrics, as in metrics=[RMSE()]"
            if argument == "metrics"
            else f"plug-ins, as in {argument}=[ZeroGrad()]"
        )
        hint = f" {RATE_HINT}" if isinstance(given, (float, slice)) else ""
        raise TypeError(f"{argument}={given!r}: pass a list of {form}.{hint}")
    return list(given)


def found_in(callbacks: Callbacks, wanted: Iterable[Callback | type[Callback] | str]) -> list[Callback]:
    """The plug-ins that are meant, in their order: by themselves, by name, or all of a class.

    Raises:
        KeyError: there is none; the message names those that there are.
    """
    found: set[int] = set()
    for each in wanted:
        if isinstance(each, str):
            found.add(id(callbacks.named(each)))
            continue
        meant = [
            plugin
            for plugin in callbacks
            if is_meant(plugin, each) or (isinstance(each, type) and of_class(plugin, each))
        ]
        if not meant:
            title = each.__name__ if isinstance(each, type) else repr(each)
            names = ", ".join(plugin.name for plugin in callbacks) or "none"
            raise KeyError(f"no callback is {title}. There are: {names}.")
        found |= set(map(id, meant))
    return [plugin for plugin in callbacks if id(plugin) in found]


def metrics_of(callbacks: Callbacks) -> tuple[Any, ...]:
    """The metrics that callbacks measure, as they were given."""
    found = [each for each in callbacks if isinstance(each, Metrics)]
    return tuple(metric for each in found for metric in each.metrics)


def connected(
    callbacks: Iterable[Any], learner_class: type, defaults: Operations
) -> tuple[Callbacks, dict[str, Doer], dict[str, Doer]]:
    """Callbacks, who listens to each event, and who does each operation: the loop looks nothing up."""
    callbacks = callbacks if isinstance(callbacks, Callbacks) else Callbacks(callbacks)
    return callbacks, listeners_of(callbacks), doers_of(callbacks, learner_class, defaults)


def doers_of(callbacks: Callbacks, learner_class: type, defaults: Operations) -> dict[str, Doer]:
    """Who does each operation, as a function of the learner: a plug-in, or the learner itself.

    Raises:
        ValueError: a plug-in and a subclass of the learner both do one.
    """
    doers = {each: doer_of(callbacks, each, learner_class, defaults) for each in OPERATIONS}
    for around in reversed(tuple(callbacks)):  # the first one heard is the outermost
        for operation in around.surrounds:
            doers[operation] = within(around, operation, doers[operation])
    return {each: guarded(each, do, callbacks.overrides.get(each)) for each, do in doers.items()}


def doer_of(callbacks: Callbacks, operation: str, learner_class: type, defaults: Operations) -> Doer:
    """Who does an operation, without those who surround it; raises as `doers_of`."""
    plugin = callbacks.overrides.get(operation)
    is_overridden = overrides(learner_class, defaults, operation)
    if plugin is None or (is_overridden and operation in plugin.yields):
        return getattr(learner_class, operation, nobody)
    if is_overridden:
        raise ValueError(
            f"two do {operation!r}: {learner_class.__name__}.{operation} and the plug-in "
            f"{describe(plugin)}. One operation has one "
            "doer: leave the plug-in out, or the method."
        )
    return getattr(plugin, operation)


def within(plugin: Callback, operation: str, do: Doer) -> Doer:
    """Do an operation in the context of a plug-in that surrounds it."""

    @wraps(do)
    def _surrounded(learn: Any) -> Any:
        with plugin.surround(learn, operation):
            return do(learn)

    return _surrounded


def overrides(learner_class: type, defaults: Operations, operation: str) -> bool:
    """Does a subclass of the learner do this operation in its own way?"""
    return getattr(learner_class, operation, None) is not defaults.get(operation)


def guarded(operation: str, do: Doer, plugin: Callback | None) -> Doer:
    """An operation that reports its errors to the place; `plugin` is the callback that implements it."""
    if do is nobody:
        return do

    @wraps(do)
    def _guarded(learn: Any) -> None:
        try:
            do(learn)
        except BaseException as error:
            learn.loop.place.note_operation_error(error, operation)
            if plugin is not None:
                learn.loop.place.note_hook_error(error, plugin, operation)
            raise

    return _guarded


def listeners_of(callbacks: Callbacks) -> dict[str, Doer]:
    """All who listen to an event, as one function of the learner."""
    found = {event: in_turn(event, hooks) for event, hooks in callbacks.hooks.items()}
    begin = begins(callbacks, callbacks.hooks["before_fit"])
    return {**found, "before_fit": begin, "after_fit": ends(callbacks.hooks, found["after_fit"])}


def in_turn(event: str, hooks: tuple[Hook, ...]) -> Doer:
    """A function that calls the hooks in turn, and reports their errors to the place."""
    if not hooks:
        return nobody

    def _fire(learn: Any) -> None:
        hook = hooks[0]
        try:
            for hook in hooks:
                hook(learn)
        except BaseException as error:
            learn.loop.place.note_hook_error(error, hook.__self__, event)
            save_before_failing(learn, event, hooks[hooks.index(hook) :], error)
            raise

    return _fire


def begins(callbacks: Callbacks, hooks: tuple[Hook, ...]) -> Doer:
    """A function that begins a fit for each callback, with its hook of `before_fit` where it has one.

    A callback that another one has removed by then is left out.
    """
    found = {id(hook.__self__): in_turn("before_fit", (hook,)) for hook in hooks}

    def _begin(learn: Any) -> None:
        for plugin in callbacks:
            if learn.callbacks is callbacks or plugin in learn.callbacks:
                learn.loop.started.append(plugin)
                found.get(id(plugin), nobody)(learn)

    return _begin


def ends(hooks: Mapping[str, tuple[Hook, ...]], fire: Doer) -> Doer:
    """A function that ends a fit, without the callbacks whose `before_fit` was not reached."""
    with_before = {id(hook.__self__) for hook in hooks["before_fit"]}

    def _end(learn: Any) -> None:
        missed = with_before - set(map(id, learn.loop.started))
        rest = tuple(hook for hook in hooks["after_fit"] if id(hook.__self__) not in missed)
        (in_turn("after_fit", rest) if missed else fire)(learn)

    return _end
