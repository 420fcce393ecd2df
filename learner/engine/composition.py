"""The callbacks of a learner, and what each event and operation calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import wraps
from typing import Any

from callbacks.core.contract import OPERATIONS, Callback
from callbacks.core.given import as_callbacks
from callbacks.core.ranks import is_launched
from callbacks.core.registry import Callbacks, Hook, describe, is_meant, of_class
from callbacks.core.when import passed
from callbacks.distributed.distributed import Distributed
from callbacks.guard.stop_on_nan import StopOnNaN
from callbacks.place.device import DevicePlacement
from callbacks.record.metrics import Metrics
from callbacks.record.progress import Progress
from callbacks.record.recorder import Recorder
from callbacks.step.gradient import ZeroGrad
from learner.engine.emergency import save_before_failing
from learner.messages.keywords import RATE_HINT
from learner.state.position import nobody
from learner.state.protocol import Call, FullLearner

#: The callbacks of a learner, unless `defaults` is passed.
DEFAULT_CALLBACKS = (ZeroGrad, DevicePlacement, StopOnNaN, Metrics, Recorder, Progress)

Operations = Mapping[str, Call]


def with_defaults(
    given: Any,
    metrics: Any,
    defaults: Any,
    learner_class: type,
    operations: Operations,
) -> list[Callback]:
    """The defaults, then the given callbacks.

    A default is left out if a callback of its class is given, or if a callback or the subclass implements an
    operation that it implements.
    """
    callbacks = passed(as_callbacks(as_list(given, "callbacks"), "callbacks"))
    metrics = as_list(metrics, "metrics")
    unasked = as_callbacks(as_list(defaults, "defaults"), "defaults")
    if metrics:
        if any(of_class(callback, Metrics) for callback in callbacks):
            raise ValueError(
                "metrics were given twice: with metrics=[...] and as the callback Metrics(...). Pass all to "
                "the callback."
            )
        unasked = [each for each in unasked if not isinstance(each, Metrics)] + [Metrics(*metrics)]
    if is_launched() and not any(each.distributed for each in callbacks):
        callbacks.insert(0, Distributed())
    own = {each for each in OPERATIONS if overrides(learner_class, operations, each)}
    return [*(default for default in unasked if not is_replaced(default, callbacks, own)), *callbacks]


def is_replaced(default: Callback, callbacks: Iterable[Callback], own: set[str]) -> bool:
    """Do given callbacks, or operations that a subclass of the learner overrides, replace a default?"""
    implemented = {operation for operation in OPERATIONS if hasattr(type(default), operation)}
    return bool(implemented & own) or any(
        isinstance(callback, type(default)) or any(hasattr(type(callback), each) for each in implemented)
        for callback in callbacks
    )


def as_list(given: Any, argument: str) -> list[Any]:
    """The given callbacks or metrics as a list; a single one is a list of one."""
    is_metric = argument == "metrics" and (callable(given) or hasattr(given, "compute"))
    if is_metric or isinstance(given, Callback) or (isinstance(given, type) and issubclass(given, Callback)):
        return [given]
    if isinstance(given, (str, Mapping)) or callable(given) or not isinstance(given, Iterable):
        form = "metrics, as in metrics=[RMSE()]"
        if argument != "metrics":
            form = f"callbacks, as in {argument}=[ZeroGrad()]"
        hint = f" {RATE_HINT}" if isinstance(given, (float, slice)) else ""
        raise TypeError(f"{argument}={given!r}: pass a list of {form}.{hint}")
    return list(given)


def found_in(callbacks: Callbacks, wanted: Iterable[Callback | type[Callback] | str]) -> list[Callback]:
    """The callbacks that are wanted, in their order: each given itself, by its name, or by its class."""
    found: set[int] = set()
    for each in wanted:
        if isinstance(each, str):
            found.add(id(callbacks.named(each)))
            continue
        meant = [
            callback
            for callback in callbacks
            if is_meant(callback, each) or (isinstance(each, type) and of_class(callback, each))
        ]
        if not meant:
            title = each.__name__ if isinstance(each, type) else repr(each)
            names = ", ".join(callback.name for callback in callbacks) or "none"
            raise KeyError(f"there is no callback {title}. Callbacks: {names}.")
        found |= set(map(id, meant))
    return [callback for callback in callbacks if id(callback) in found]


def metrics_of(callbacks: Iterable[Callback]) -> tuple[Any, ...]:
    """The metrics that callbacks measure, as they were given."""
    found = [each for each in callbacks if isinstance(each, Metrics)]
    return tuple(metric for each in found for metric in each.metrics)


def connected(
    callbacks: Iterable[Callback], learner_class: type, defaults: Operations
) -> tuple[Callbacks, dict[str, Call], dict[str, Call]]:
    """The callbacks, and the functions that events and operations call, so that the loop looks nothing up."""
    callbacks = callbacks if isinstance(callbacks, Callbacks) else Callbacks(callbacks)
    return callbacks, event_calls(callbacks), operation_calls(callbacks, learner_class, defaults)


def operation_calls(callbacks: Callbacks, learner_class: type, defaults: Operations) -> dict[str, Call]:
    """The function that implements each operation, of a callback or of the learner's class.

    Raises:
        ValueError: a callback and a subclass of the learner both implement one.
    """
    calls = {each: implementation(callbacks, each, learner_class, defaults) for each in OPERATIONS}
    for around in reversed(tuple(callbacks)):  # the first callback is the outermost
        for operation in around.surrounds:
            calls[operation] = surrounded(around, operation, calls[operation])
    return {each: guarded(each, do, callbacks.overrides.get(each)) for each, do in calls.items()}


def implementation(callbacks: Callbacks, operation: str, learner_class: type, defaults: Operations) -> Call:
    """The function that implements an operation, without callbacks around it; raises as `operation_calls`."""
    callback = callbacks.overrides.get(operation)
    is_overridden = overrides(learner_class, defaults, operation)
    if callback is None or (is_overridden and operation in callback.yields):
        return getattr(learner_class, operation, nobody)
    if is_overridden:
        raise ValueError(
            f"{learner_class.__name__}.{operation} and the callback {describe(callback)} both implement "
            f"{operation}. An operation can have only one implementation: remove the callback, or the "
            "method."
        )
    return getattr(callback, operation)


def surrounded(callback: Callback, operation: str, do: Call) -> Call:
    """The operation, run in the context of a callback that surrounds it."""

    @wraps(do)
    def _surrounded(learn: FullLearner) -> Any:
        with callback.surround(learn, operation):
            return do(learn)

    return _surrounded


def overrides(learner_class: type, defaults: Operations, operation: str) -> bool:
    """Does a subclass of the learner override an operation?"""
    return getattr(learner_class, operation, None) is not defaults.get(operation)


def guarded(operation: str, do: Call, callback: Callback | None) -> Call:
    """An operation that notes the place of its errors; `callback` implements it, if any does."""
    if do is nobody:
        return do

    @wraps(do)
    def _guarded(learn: FullLearner) -> None:
        try:
            do(learn)
        except BaseException as error:
            learn.loop.place.note_operation_error(error, operation)
            if callback is not None:
                learn.loop.place.note_hook_error(error, callback, operation)
            raise

    return _guarded


def event_calls(callbacks: Callbacks) -> dict[str, Call]:
    """For each event one function that calls all its hooks."""
    found = {event: in_turn(event, hooks) for event, hooks in callbacks.hooks.items()}
    before = before_fit_call(callbacks, callbacks.hooks["before_fit"])
    return {**found, "before_fit": before, "after_fit": after_fit_call(callbacks.hooks, found["after_fit"])}


def in_turn(event: str, hooks: tuple[Hook, ...]) -> Call:
    """A function that calls the hooks in turn, and notes the place of their errors."""
    if not hooks:
        return nobody

    def _fire(learn: FullLearner) -> None:
        hook: Any = hooks[0]
        try:
            for hook in hooks:
                hook(learn)
        except BaseException as error:
            if learn.ranks.holds(learn, error, hook.__self__):
                in_turn(event, hooks[hooks.index(hook) + 1 :])(learn)
                return
            learn.loop.place.note_hook_error(error, hook.__self__, event)
            save_before_failing(learn, event, hooks[hooks.index(hook) :], error)
            raise

    return _fire


def before_fit_call(callbacks: Callbacks, hooks: tuple[Hook, ...]) -> Call:
    """A function that starts the fit for each callback, and calls its `before_fit` if it has one.

    A callback that an earlier `before_fit` has removed is skipped.
    """
    found = {id(hook.__self__): in_turn("before_fit", (hook,)) for hook in hooks}

    def _before_fit(learn: FullLearner) -> None:
        for callback in callbacks:
            if learn.callbacks is callbacks or callback in learn.callbacks:
                learn.loop.started.append(callback)
                found.get(id(callback), nobody)(learn)

    return _before_fit


def after_fit_call(hooks: Mapping[str, tuple[Hook, ...]], fire: Call) -> Call:
    """A function that calls each `after_fit`, except of callbacks whose `before_fit` was not called."""
    with_before = {id(hook.__self__) for hook in hooks["before_fit"]}

    def _after_fit(learn: FullLearner) -> None:
        missed = with_before - set(map(id, learn.loop.started))
        rest = tuple(hook for hook in hooks["after_fit"] if id(hook.__self__) not in missed)
        (in_turn("after_fit", rest) if missed else fire)(learn)

    return _after_fit
