"""Checksums of the types of all values in a checkpoint, to detect changes by other code."""

from __future__ import annotations

import json
import zlib
from typing import Any

from torch import Tensor

from learner.files.unpacking import KIND


def sums_of(contents: dict[str, Any]) -> str:
    """A checksum of the kinds in each piece of a checkpoint, or in each entry of a piece, as one string.

    The kind of a tensor is its shape and dtype; that of another value is its type.
    """
    return json.dumps(found_in(contents))


def found_in(contents: dict[str, Any]) -> dict[str, int]:
    """The checksums by place, such as `optimizer.state`."""
    seen: dict[int, int] = {}
    found = {}
    for piece, value in contents.items():
        if type(value) is dict and KIND not in value:
            found |= {f"{piece}.{key}": sum_of(each, seen) for key, each in value.items()}
            found[piece] = zlib.crc32(b"dict")
        else:
            found[piece] = sum_of(value, seen)
    return found


def altered(contents: dict[str, Any], sums: str) -> list[str]:
    """The places of values whose kind has changed since `sums_of` was called, or that are gone.

    A missing piece is not reported, because earlier versions did not write all pieces.
    """
    then, now = dict(json.loads(sums)), found_in(contents)
    lost = [place for place in then if place not in now and place.partition(".")[0] in contents]
    return [*lost, *(place for place, own in now.items() if then.get(place, own) != own)]


def sum_of(value: Any, seen: dict[int, int]) -> int:
    """A checksum of the kinds in a value; a part that occurs twice is read once."""
    kind = type(value)
    if kind is Tensor:
        return zlib.crc32(f"{tuple(value.shape)} {value.dtype}".encode())
    if kind not in (dict, list, tuple):
        return zlib.crc32(kind.__name__.encode())
    if id(value) not in seen:
        entries = value.items() if kind is dict else enumerate(value)
        shape = [(repr(key), sum_of(each, seen)) for key, each in entries]
        seen[id(value)] = zlib.crc32(f"{kind.__name__} {shape}".encode())
    return seen[id(value)]
