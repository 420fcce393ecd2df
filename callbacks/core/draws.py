"""The random generators that training draws from, with functions to read and restore their states."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

GENERATORS = ("torch", "cuda", "python", "numpy")
PythonState = tuple[int, str, float | None]
CHEAP = ("torch", "cuda")  # a microsecond to take; Python's is 14, NumPy's 60 (measured, 2 GHz server CPU)


def take(names: Iterable[str] = GENERATORS) -> dict[str, Any]:
    """The states of those of these generators that are in use, by name."""
    return {name: TAKERS[name]() for name in names if is_in_use(name)}


def put(states: dict[str, Any]) -> None:
    """Restore the states that `take` returned."""
    for name, state in states.items():
        if is_in_use(name):
            PUTTERS[name](state)


@contextmanager
def undrawn() -> Iterator[None]:
    """Restore all generators at the end of the block."""
    states = take()
    try:
        yield
    finally:
        put(states)


def is_in_use(name: str) -> bool:
    """Can a number have been drawn from it?"""
    if name == "cuda":
        return torch.cuda.is_initialized()
    return name != "numpy" or "numpy" in sys.modules


def differ(name: str, one: Any, other: Any) -> bool:
    """Were numbers drawn from a generator of Python or NumPy between these two states?"""
    if name == "numpy":
        return one[2:] != other[2:] or bool((one[1] != other[1]).any())
    return one != other


def take_python(source: Any = random) -> PythonState:
    """Python's state, its 625 numbers as one string, which is written to a file 100 times as quickly."""
    version, words, gauss = source.getstate()
    return version, array("I", words).tobytes().hex(), gauss


def put_python(state: PythonState, source: Any = random) -> None:
    """Restore the state that `take_python` returned."""
    version, words, gauss = state
    source.setstate((version, tuple(array("I", bytes.fromhex(words))), gauss))


class OwnDraws:
    """A callback's own stream of random numbers, which continues from fit to fit.

    `owner` is the class of the callback, for messages. Without a seed, one is drawn from torch's random state
    at the first use.
    """

    def __init__(self, owner: str, seed: int | None):
        if seed is not None and (type(seed) is not int or seed < 0):
            raise ValueError(
                f"{owner}(seed={seed!r}): write a whole number of at least 0, or leave it out to draw one."
            )
        self.seed = seed
        self._source: random.Random | None = None

    @property
    def source(self) -> random.Random:
        """The generator, which is created at the first use."""
        if self._source is None:
            self._source = random.Random(draw_seed() if self.seed is None else self.seed)
        return self._source

    @property
    def state(self) -> PythonState | None:
        """The state as plain data; None before the first use."""
        return None if self._source is None else take_python(self._source)

    @state.setter
    def state(self, state: PythonState | None) -> None:
        self._source = None if state is None else random.Random()
        if state is not None:
            put_python(state, self._source)


def draw_seed() -> int:
    """A seed from torch's random state; on the CPU, so nothing waits."""
    return int(torch.randint(2**31, ()).item())


TAKERS: dict[str, Callable[[], Any]] = {
    "torch": torch.get_rng_state,
    "cuda": lambda: torch.cuda.get_rng_state_all(),
    "python": take_python,
    "numpy": lambda: sys.modules["numpy"].random.get_state(),
}
PUTTERS: dict[str, Callable[[Any], Any]] = {
    "torch": torch.set_rng_state,
    "cuda": lambda states: torch.cuda.set_rng_state_all(states[: torch.cuda.device_count()]),
    "python": put_python,
    "numpy": lambda state: sys.modules["numpy"].random.set_state(state),
}
