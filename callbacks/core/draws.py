"""The random generators that training draws from, with functions to read and restore their states."""

from __future__ import annotations

import ctypes
import random
import sys
from _random import Random as Base
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
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
    _numpy.known = None
    for name, state in states.items():
        if is_in_use(name):
            PUTTERS[name](state)


@contextmanager
def undrawn() -> Iterator[None]:
    """Restore all generators at the end of the block, which takes 5 us if at most torch's was drawn from."""
    states, python, numpy = take(CHEAP), _python.take(), _numpy.take()
    try:
        yield
    finally:
        for name, state in states.items():
            PUTTERS[name](state)
        _python.put(python)
        _numpy.put(numpy)


class SeenDraws:
    """Reads and restores the state of a generator only if numbers were drawn from it.

    That takes ten to fifty times as long as reading the memory of the generator. While the memory is the
    same, the state is the one that was read last.

    Args:
        read: returns the state.
        restore: restores a state.
        memory: returns the part of the memory that each draw changes; None if it is not known where it is.
        hides: may a number have been drawn from this state without a change in the memory?
    """

    def __init__(
        self,
        read: Callable[[], Any],
        restore: Callable[[Any], Any],
        memory: Callable[[], Any],
        hides: Callable[[Any], bool] | None = None,
    ):
        self.read, self.restore, self.memory, self.hides = read, restore, memory, hides
        self.known: tuple[Any, Any] | None = None  # the memory, and the state

    def take(self) -> Any:
        """The state, for `put`."""
        memory = self.memory()
        if memory is None:
            return self.read()
        if self.known is None or self.known[0] != memory:
            self.known = memory, self.read()
        return self.known[1]

    def put(self, state: Any) -> None:
        """Restore a state that `take` has just returned."""
        is_same = self.known is not None and self.known[1] is state and self.known[0] == self.memory()
        if not is_same or (self.hides is not None and self.hides(state)):
            self.restore(state)


def numpy_memory() -> bytes | None:
    """The 624 words of a Mersenne Twister, and its position in them; None for another generator.

    It lacks the normal number that NumPy keeps for the next call. That number is known from the last read of
    the state, unless the user has seeded the generator to the same position in another way.
    """
    numpy: Any = sys.modules.get("numpy")
    generator: Any = getattr(getattr(numpy, "random", None), "get_bit_generator", lambda: None)()
    if type(generator).__name__ != "MT19937":
        return None
    return ctypes.string_at(generator.ctypes.state_address, 625 * 4)


def python_memory() -> tuple[bytes, float | None] | None:
    """The memory of Python's generator, and the normal number that it keeps; None if it is not CPython's."""
    source: Any = random.getstate.__self__  # type: ignore[attr-defined]
    return (python_words(source), source.gauss_next) if has_readable_words() else None


def python_words(source: random.Random) -> bytes:
    """The position in the words and the 624 words, which CPython keeps behind the head of an object."""
    return ctypes.string_at(id(source) + object.__basicsize__, 625 * 4)


@cache
def has_readable_words() -> bool:
    """Are the words of Python's generator where CPython has them?"""
    if sys.implementation.name != "cpython" or Base.__basicsize__ < object.__basicsize__ + 625 * 4:
        return False
    source = random.Random(0)
    *words, position = source.getstate()[1]
    return python_words(source) == array("I", [position, *words]).tobytes()


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
                f"{owner}(seed={seed!r}): seed must be a whole number of at least 0. Omit it to draw a "
                "random seed."
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
_python = SeenDraws(random.getstate, random.setstate, python_memory)
_numpy = SeenDraws(
    lambda: take(["numpy"]).get("numpy"),  # None if it is not in use
    lambda state: None if state is None else PUTTERS["numpy"](state),
    numpy_memory,
    lambda state: bool(state[3]),
)
