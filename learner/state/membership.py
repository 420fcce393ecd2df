"""Add and remove callbacks, also during a fit: a callback whose fit has started cleans up exactly once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from callbacks.core.contract import Callback
from callbacks.core.registry import hook_of
from callbacks.core.when import passed, saved_part
from learner.state.protocol import FullLearner

L = TypeVar("L", bound=FullLearner)


def add(learn: FullLearner, callbacks: Iterable[Callback]) -> None:
    """Add callbacks; during a fit, their `before_fit` is called."""
    before = learn.callbacks
    learn.loop.connect(learn, (*before, *passed(callbacks, before)))
    if learn.fitting:
        for callback in beside(learn.callbacks, before):
            begin(learn, callback)


def remove(learn: FullLearner, gone: list[Callback]) -> None:
    """Remove callbacks; during a fit, their `cleanup_fit` is called."""
    learn.loop.connect(learn, learn.callbacks.without(*gone))
    finish(learn, gone)


@contextmanager
def added(learn: L, callbacks: Iterable[Callback | type[Callback]]) -> Iterator[L]:
    """Add callbacks within the block."""
    before = learn.callbacks
    learn.add_callbacks(*callbacks)
    new = beside(learn.callbacks, before)
    try:
        yield learn
    finally:
        learn.remove_callbacks(*beside(new, beside(new, learn.callbacks)))


@contextmanager
def without(learn: L, gone: list[Callback]) -> Iterator[L]:
    """Remove callbacks within the block; then add them again at their places, with their state."""
    before = tuple(learn.callbacks)
    states = [copy.deepcopy(saved_part(callback).state_dict()) for callback in gone]
    learn.remove_callbacks(*gone)
    try:
        yield learn
    finally:
        there = {id(callback): callback for callback in (*gone, *learn.callbacks)}
        old = [there.pop(id(callback)) for callback in before if id(callback) in there]
        learn.loop.connect(learn, (*old, *there.values()))
        if learn.fitting:
            for callback, state in zip(gone, states, strict=True):
                begin(learn, callback)
                saved_part(callback).load_state_dict(state)


def beside(callbacks: Iterable[Callback], others: Iterable[Callback]) -> list[Callback]:
    """The callbacks that are not among the others, by identity, because a callback may define `==`."""
    known = set(map(id, others))
    return [callback for callback in callbacks if id(callback) not in known]


def begin(learn: FullLearner, callback: Callback) -> None:
    """Start the fit of a callback that is added during it."""
    learn.loop.started.append(callback)
    hook_of(callback, "before_fit")(learn)  # through its window, if it has one


def finish(learn: FullLearner, callbacks: Iterable[Callback]) -> None:
    """Call `cleanup_fit` of removed callbacks whose fit has started."""
    for callback in reversed(tuple(callbacks)):
        if any(callback is each for each in learn.loop.started):
            learn.loop.started = [each for each in learn.loop.started if each is not callback]
            callback.cleanup_fit(learn)


def last_first(learn: FullLearner) -> Iterator[Callback]:
    """The callbacks that must clean up, last first, each once, even if one of them adds or removes others."""
    known = None
    while learn.loop.started:
        if learn.callbacks is not known:
            known = learn.callbacks
            order = {id(each): number for number, each in enumerate(known)}
            learn.loop.started.sort(key=lambda each, order=order: order.get(id(each), -1))
        yield learn.loop.started.pop()
