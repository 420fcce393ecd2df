"""Decide whether a state belongs to a loader or loss: the same object, by its token, or equal data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from callbacks.core.modules import LOSS, loss_module
from learner.data.batching import TensorLoader
from learner.state.fingerprint import SOFT, loader_of
from learner.state.protocol import FullLearner

_tokens: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_numbers = count(1)


def token_of(thing: Any) -> int | None:
    """A number for the object, the same at each call; None for an object without a hash, such as a list."""
    try:
        if thing not in _tokens:
            _tokens[thing] = next(_numbers)
        return _tokens[thing]
    except TypeError:  # it has no hash, or no weak references
        return None


def is_same(thing: Any, token: int | None) -> bool:
    """Does this token belong to the object?"""
    return token is not None and token_of(thing) == token


def loaders_with_state(data: Any) -> list[tuple[str, Any]]:
    """The loaders that can save and restore their position."""
    return [
        (name, loader)
        for name, loader in data.loaders.items()
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    ]


def objects_of(learn: FullLearner) -> Iterator[tuple[str, Any]]:
    """The model, the loss and the loaders, whose state must not be restored in another object."""
    yield "model", learn.model
    yield LOSS, loss_module(learn.loss_func)
    yield from loaders_with_state(learn.data)


def is_of_loader(name: str, loader: Any, snapshot: dict[str, Any]) -> bool:
    """Is the state of a loader in a snapshot or file that of this loader, or of one with equal data?

    The order and the seed of other data stay unchanged.
    """
    tokens = snapshot.get("objects")
    if tokens is not None and is_same(loader, tokens.get(name)):
        return True
    then = snapshot["data"].get(name) if tokens is not None else snapshot["fingerprint"]["data"].get(name)
    is_known = tokens is None or isinstance(loader, TensorLoader)  # other loaders have no content checksum
    return is_known and hard(then) == hard(loader_of(loader))


def hard(found: dict[str, Any] | None) -> dict[str, Any]:
    """The fingerprint of a loader without the parts that may differ."""
    return {name: value for name, value in (found or {}).items() if name not in SOFT}
