"""The random generators that users keep on loaders, samplers, data sets, transforms and modules."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

DEEPEST = 4  # a transform's list on a data set within a data set
LONGEST = 100  # entries of a container that are looked at

Path = tuple[str, ...]


def generator_states(root: Any) -> dict[str, Any]:
    """The state of each generator that something keeps, by where it is kept."""
    return {".".join(path): state_of(found) for path, found in generators_in(root)}


def set_generator_states(root: Any, states: dict[str, Any]) -> None:
    """Put back what `generator_states` gave."""
    for path, found in generators_in(root) if states else ():
        if ".".join(path) in states:
            put_state(found, states[".".join(path)])


def generators_in(root: Any) -> Iterator[tuple[Path, Any]]:
    """Each generator once, and samplers that count epochs, with the way to it."""
    kinds, seen = kinds_of_generators(), set()

    def walk(thing: Any, path: Path) -> Iterator[tuple[Path, Any]]:
        if id(thing) in seen or is_leaf(thing):
            return
        seen.add(id(thing))
        if isinstance(thing, kinds):
            yield path, thing
            return
        if hasattr(thing, "set_epoch") and isinstance(getattr(thing, "epoch", None), int):
            yield path, thing
        if len(path) < DEEPEST:
            for name, part in parts_of(thing):
                yield from walk(part, (*path, name))

    return walk(root, ())


def kinds_of_generators() -> tuple[type, ...]:
    """Python's, torch's, and NumPy's where it is there."""
    numpy = sys.modules.get("numpy")
    kinds: tuple[type, ...] = (random.Random, torch.Generator)
    return kinds if numpy is None else (*kinds, numpy.random.Generator, numpy.random.RandomState)


def is_leaf(thing: Any) -> bool:
    """Something that keeps no generator, or that is not looked into."""
    return thing is None or isinstance(
        thing, (str, bytes, int, float, Tensor, type, ModuleType, FunctionType, MethodType)
    )


def parts_of(thing: Any) -> list[tuple[str, Any]]:
    """Entries of a small container, else the attributes of an object; of a module not its submodules."""
    if isinstance(thing, (list, tuple)):
        return [(str(n), part) for n, part in enumerate(thing)] if len(thing) <= LONGEST else []
    if isinstance(thing, dict):
        return [(str(key), part) for key, part in thing.items()] if len(thing) <= LONGEST else []
    found = [(name, part) for name, part in getattr(thing, "__dict__", {}).items()]
    if isinstance(thing, nn.Module):
        return [(name, part) for name, part in found if isinstance(part, kinds_of_generators())]
    return found


def state_of(generator: Any) -> Any:
    """A generator's state, or a sampler's epoch."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state() if hasattr(generator, "get_state") else generator.epoch


def put_state(generator: Any, state: Any) -> None:
    """Put back what `state_of` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.epoch = state
