"""Find the random generators that an object holds, and save and restore their states."""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.core import draws
from callbacks.core.output import with_article
from callbacks.core.warning import warn
from learner.messages.keywords import takes

DEEPEST = 6  # steps from the root, such as dataset.dataset.transform.transforms.0.rng of a loader
LONGEST = 100  # longer lists and dicts hold data, not parts
MOST = 1000  # objects to examine; this takes about 4 ms
# Workers and their queues, and all attributes that torch has in every module except the submodules.
PASSED_OVER = frozenset({"_iterator", "multiprocessing_context", *vars(nn.Module())} - {"_modules"})
LEAVES = (type, types.ModuleType, Tensor, str, bytes, int, float, complex, torch.dtype, torch.device)


def generator_states(root: Any) -> dict[str, dict[str, Any]]:
    """The states of `generators_in`, as plain data."""
    return {path: {"kind": kind_of(part), "state": get(part)} for path, part in generators_in(root).items()}


def set_generator_states(root: Any, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore the states that `generator_states` returned in the generators at the same paths.

    Warns:
        LearnerWarning: a generator is missing.
    """
    found = generators_in(root) if states else {}
    lost = []
    for path, state in states.items():
        if path in found and kind_of(found[path]) == state["kind"]:
            put(found[path], state["state"])
        elif state["kind"] != "epoch":  # the epoch is set in each pass
            lost.append(path)
    if lost:
        warn(
            f"{with_article(root)} had random generators at {', '.join(map(repr, lost))}, which are "
            "missing now, so its random numbers will differ. Create them in the __init__ of the object."
        )


@contextmanager
def undrawn(root: Any) -> Iterator[None]:
    """Restore, at the end, the global random states and the generators that an object holds."""
    own = generator_states(root)
    try:
        with draws.undrawn():
            yield
    finally:
        set_generator_states(root, own)


def generators_in(root: Any) -> dict[str, Any]:
    """The generators that an object holds, by the path of names that leads to them.

    The search covers attributes, lists, tuples and dicts, the arguments of `functools.partial`, the object of
    a method, and the variables around a function and the global generators that it names. It does not cover
    slots, containers of more than 100 entries, and objects more than six steps away.

    Args:
        root: a loader, data set, sampler, function or module; submodules of a module are left out.

    Returns:
        Generators of torch, NumPy and Python, and objects with `set_epoch` and a number `epoch`, each once.
    """
    return {path: part for path, part in walk(root) if kind_of(part) is not None}


def seed_generators(parts: Iterable[Any], seed: int) -> None:
    """Seed generators, always in the same way; an `epoch` stays unchanged."""
    for number, part in enumerate(parts):
        kind, own = kind_of(part), (seed + number) % 2**63
        if kind == "torch":
            part.manual_seed(own)
        elif kind == "python":
            part.seed(own)
        elif kind == "numpy":
            part.bit_generator.state = type(part.bit_generator)(own).state
        elif kind == "numpy legacy":
            part.set_state(np.random.RandomState(np.random.MT19937(own)).get_state())


def draw_one(part: Any) -> Any:
    """The next number of a generator; the number of an epoch itself."""
    kind = kind_of(part)
    if kind == "torch":
        return torch.rand((), generator=part, device=part.device, dtype=torch.float64).item()
    if kind == "numpy legacy":
        return part.random_sample()
    return part.epoch if kind == "epoch" else part.random()


def kind_of(part: Any) -> str | None:
    """The kind of a generator; None if it is not one."""
    if isinstance(part, torch.Generator):
        return "torch"
    if isinstance(part, random.Random):
        return None if isinstance(part, random.SystemRandom) else "python"  # SystemRandom has no state
    if isinstance(part, np.random.Generator):
        return "numpy"
    if isinstance(part, np.random.RandomState):
        return "numpy legacy"
    kept = getattr(part, "__dict__", None)
    if type(kept) is dict and type(kept.get("epoch")) is int and hasattr(type(part), "set_epoch"):
        return "epoch"
    return None


def get(part: Any) -> Any:
    """The state of a generator."""
    kind = kind_of(part)
    if kind == "torch":
        return part.get_state()
    if kind == "python":
        return part.getstate()
    if kind == "epoch":
        return part.epoch
    return part.bit_generator.state if kind == "numpy" else part.get_state(legacy=False)


def put(part: Any, state: Any) -> None:
    """Restore the state of a generator."""
    kind = kind_of(part)
    if kind == "python":
        part.setstate(state)
    elif kind == "epoch":
        part.set_epoch(state)
    elif kind == "numpy":
        part.bit_generator.state = state
    else:
        part.set_state(state)


def takers(root: Any) -> Iterator[Any]:
    """The objects whose `set_epoch` takes the number of the epoch, the outermost first."""
    for _, part in walk(root):
        method = getattr(type(part), "set_epoch", None)
        if callable(method) and takes(part.set_epoch, 0):
            yield part


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """The root and all objects that it holds, nearest first, each once, with its path."""
    seen: dict[int, Any] = {id(root): root}  # holds the objects, so that their ids are not reused
    level = [("", root)]
    for depth in range(DEEPEST + 1):
        yield from level
        level = list(below(level, seen)) if depth < DEEPEST else []


def below(level: list[tuple[str, Any]], seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """The new objects that some objects hold, until there are too many."""
    is_root = len(seen) == 1
    for path, holder in level:
        for name, part in parts_of(holder, is_root=is_root):
            if part is None or isinstance(part, LEAVES) or id(part) in seen:
                continue
            if len(seen) >= MOST:
                return
            seen[id(part)] = part
            yield f"{path}.{name}" if path else name, part


def parts_of(holder: Any, *, is_root: bool = False) -> list[tuple[str, Any]]:
    """The parts of an object, by name."""
    if isinstance(holder, (list, tuple)):
        return [(str(n), part) for n, part in enumerate(holder)] if len(holder) <= LONGEST else []
    if type(holder) is dict:  # other mappings may compute their values
        return [(str(key), part) for key, part in holder.items()] if len(holder) <= LONGEST else []
    if isinstance(holder, functools.partial):
        args = [(str(n), part) for n, part in enumerate(holder.args)]
        return [*args, *holder.keywords.items(), ("func", holder.func)]
    if isinstance(holder, types.MethodType):
        return [("self", holder.__self__)]
    if isinstance(holder, types.FunctionType):
        return variables_of(holder)
    kept = getattr(holder, "__dict__", None)
    if kind_of(holder) not in (None, "epoch") or type(kept) is not dict or len(kept) > LONGEST:
        return []
    skipped = PASSED_OVER | {"_modules"} if is_root else PASSED_OVER
    return [(str(name), part) for name, part in kept.items() if name not in skipped]


def variables_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The variables around a function, and the global generators that it names."""
    named = [(name, function.__globals__.get(name)) for name in function.__code__.co_names]
    generators = [(name, part) for name, part in named if kind_of(part) not in (None, "epoch")]
    return [*cells_of(function).items(), *generators]


def cells_of(function: types.FunctionType) -> dict[str, Any]:
    """The variables around a function that have a value, by name."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    return found
