"""Which object something was: a token that no other object of this process has, also after it is gone."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

_tokens: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_numbers = count(1)


def token_of(thing: Any) -> int | None:
    """The object's token, the same at each call; None of what cannot have one, as a list."""
    try:
        if thing not in _tokens:
            _tokens[thing] = next(_numbers)
        return _tokens[thing]
    except TypeError:  # it has no hash, or no weak references
        return None


def is_same(thing: Any, token: int | None) -> bool:
    """Is it the object of which this is the token?"""
    return token is not None and token_of(thing) == token
