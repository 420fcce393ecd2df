"""Random numbers in several processes: equal ones for the order of data, different ones for the model."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from callbacks.core import draws

Random = dict[str, Any]


class Streams:
    """The two random streams of each process of a group.

    In a fit, the process's own generators are the stream of the model, which differs from rank to rank, so
    that dropout draws another mask in each. The order of data is drawn from the other stream, which all ranks
    share. The generators have its states within `drawing_data`.

    Args:
        rank: of this process.
        first: the random states of the first process, with which both streams start.
    """

    def __init__(self, rank: int, first: Random):
        self.rank = rank
        draws.put(first)
        self._data, self._model = draws.take(), Random()
        self._is_drawing = False
        self.seed_model()

    def seed_model(self) -> None:
        """Start the model's stream of this rank from the shared one."""
        with self.drawing_data():
            state = torch.get_rng_state()
            seed = (int(torch.randint(2**62, ()).item()) + self.rank * 0x9E3779B97F4A7C15) % 2**63
            torch.set_rng_state(state)
        seed_all(seed)

    @contextmanager
    def drawing_data(self) -> Iterator[None]:
        """Draw from the shared stream within the block."""
        if self._is_drawing:
            yield
            return
        self._model, self._is_drawing = draws.take(), True
        draws.put(self._data)
        try:
            yield
        finally:
            self._data, self._is_drawing = draws.take(), False
            draws.put(self._model)

    @property
    def data(self) -> Random:
        """The states of the shared stream."""
        return draws.take() if self._is_drawing else self._data

    @data.setter
    def data(self, states: Random) -> None:
        if self._is_drawing:
            draws.put(states)
        else:
            self._data = states

    @property
    def model(self) -> Random:
        """The states of the model's stream."""
        return self._model if self._is_drawing else draws.take()

    @model.setter
    def model(self, states: Random) -> None:
        if self._is_drawing:
            self._model = states
        else:
            draws.put(states)


def seed_all(seed: int) -> None:
    """Seed the generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
