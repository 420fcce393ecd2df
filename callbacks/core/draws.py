"""The random generators that training draws from, with functions to read and restore their states."""

from __future__ import annotations

import ctypes
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
    _numpy.known = None
    for name, state in states.items():
        if is_in_use(name):
            PUTTERS[name](state)


@contextmanager
def undrawn() -> Iterator[None]:
    """Restore all generators at the end of the block, which takes 15 us if NumPy's was not drawn from."""
    states, python, numpy = take(CHEAP), random.getstate(), _numpy.take()
    try:
        yield
    finally:
        for name, state in states.items():
            PUTTERS[name](state)
        random.setstate(python)
        _numpy.put(numpy)


class NumpyDraws:
    """Reads and restores the state of NumPy's generator only if numbers were drawn from it.

    `get_state` and `set_state` take 50 us each. Reading the memory of the generator takes one, but lacks the
    normal number that NumPy keeps for the next call. While the memory is the same, that number is known from
    the last `get_state`, unless the user has seeded the generator to the same position in another way.
    """

    known: tuple[bytes, Any] | None = None  # the memory of the generator, and its whole state

    def take(self) -> Any:
        """The state, for `put`; None if NumPy is not in use."""
        memory = self._memory()
        if memory is None:
            return TAKERS["numpy"]() if is_in_use("numpy") else None
        if self.known is None or self.known[0] != memory:
            self.known = memory, TAKERS["numpy"]()
        return self.known[1]

    def put(self, state: Any) -> None:
        """Restore a state that `take` has just returned."""
        is_same = self.known is not None and self.known[1] is state and self.known[0] == self._memory()
        if state is not None and not (is_same and not state[3]):  # a kept normal number may have been used
            PUTTERS["numpy"](state)

    def _memory(self) -> bytes | None:
        """The 624 words of a Mersenne Twister, and its position in them; None for another generator."""
        numpy: Any = sys.modules.get("numpy")
        generator: Any = getattr(getattr(numpy, "random", None), "get_bit_generator", lambda: None)()
        if type(generator).__name__ != "MT19937":
            return None
        return ctypes.string_at(generator.ctypes.state_address, 625 * 4)


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
_numpy = NumpyDraws()
