"""Random numbers in several processes: equal ones for drawing the order of data, and own ones for the model."""

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
    share: its states are kept here, and the generators have them within `drawing_data`.

    Attributes:
        data: the states of the shared stream; None outside of a fit.
    """

    def __init__(self) -> None:
        self.data: Random | None = None
        self._is_inside = False

    def begin(self, rank: int, first: Random) -> None:
        """Start both streams from the random states of the first process."""
        draws.put(first)
        self.data = draws.take()
        seed = (int(torch.randint(2**62, ()).item()) + rank * 0x9E3779B97F4A7C15) % 2**63
        seed_all(seed)

    def end(self) -> None:
        """Continue with the shared stream alone, so that all processes draw the same numbers again."""
        if self.data is not None:
            draws.put(self.data)
        self.data = None

    @contextmanager
    def drawing_data(self) -> Iterator[None]:
        """Draw from the shared stream within the block."""
        if self.data is None or self._is_inside:
            yield
            return
        own, self._is_inside = draws.take(), True
        draws.put(self.data)
        try:
            yield
        finally:
            self.data, self._is_inside = draws.take(), False
            draws.put(own)


def seed_all(seed: int) -> None:
    """Seed the generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
