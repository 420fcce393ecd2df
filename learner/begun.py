"""For which callbacks a fit has begun: each of them cleans up once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from callbacks.contract import Callback


def begin(learn: Any, callback: Callback) -> None:
    """Let a callback that is added in mid-fit begin."""
    learn._begun.append(callback)
    callback.before_fit(learn)


def finish(learn: Any, callbacks: Iterable[Callback]) -> None:
    """Let callbacks that are removed clean up, where a fit has begun for them."""
    for callback in reversed(tuple(callbacks)):
        if any(callback is each for each in learn._begun):
            learn._begun = [each for each in learn._begun if each is not callback]
            callback.cleanup_fit(learn)


def last_first(learn: Any) -> Iterator[Callback]:
    """The callbacks that are to clean up, each once, also where one of them adds or removes others."""
    while learn._begun:
        order = {id(each): number for number, each in enumerate(learn.callbacks)}
        last = max(learn._begun, key=lambda each: order.get(id(each), -1))
        learn._begun = [each for each in learn._begun if each is not last]
        yield last
