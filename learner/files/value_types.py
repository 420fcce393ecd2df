"""Check the types of the values in a checkpoint before any of them is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

#: The errors in a value, each with its place, such as `fit.position`.
Check = Callable[[Any, str], Iterator[str]]

WORDS: dict[type, str] = {
    type(None): "None",
    Tensor: "a tensor",
    str: "a string",
    dict: "a dict",
    list: "a list",
    int: "a whole number",
}


def of(*kinds: type) -> Check:
    """A value of one of these types; True and False do not count as numbers."""

    def check(value: Any, place: str) -> Iterator[str]:
        if type(value) not in kinds:
            wanted = " or ".join(WORDS.get(kind, kind.__name__) for kind in kinds)
            yield f"{place} is {shown(value)}, but must be {wanted}"

    return check


def anything(value: Any, place: str) -> Iterator[str]:
    """Any value: state that users declare may have any type."""
    return iter(())


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return lambda value, place: iter(()) if value is None else check(value, place)


def items(check: Check) -> Check:
    """A list or tuple of what `check` accepts."""

    def check_items(value: Any, place: str) -> Iterator[str]:
        yield from of(list, tuple)(value, place)
        if type(value) in (list, tuple):
            for number, each in enumerate(value):
                yield from check(each, f"{place}[{number}]")

    return check_items


def mapping(check: Check) -> Check:
    """A dict from names to what `check` accepts."""

    def check_mapping(value: Any, place: str) -> Iterator[str]:
        yield from of(dict)(value, place)
        if type(value) is dict:
            for key, each in value.items():
                yield from of(str)(key, f"a key of {place}")
                yield from check(each, f"{place}.{key}")

    return check_mapping


def fields(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """A dict with these keys; `others` may be missing."""

    def check_fields(value: Any, place: str) -> Iterator[str]:
        if type(value) is not dict:
            yield from of(dict)(value, place)
            return
        for key in needed:
            if key not in value:
                yield f"{place} lacks {key!r}"
        for key, check in {**needed, **(others or {})}.items():
            if key in value:
                yield from check(value[key], f"{place}.{key}" if place else key)

    return check_fields


def shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
