"""Tables and curves as text in a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from shutil import get_terminal_size
from statistics import fmean

from callbacks.history.history import text_blocks
from learner.report.records import is_finite

BLOCKS, SIGNS = "▁▂▃▄▅▆▇█", "_.-~=+*#"  # heights of a curve, the second if the output has no blocks
MISSING = "-"


def tabulated(columns: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns as lines that fit the terminal; the other columns follow below, again after the first one."""
    blocks = text_blocks(columns, width or get_terminal_size((80, 24)).columns, str.ljust)
    return "\n\n".join("\n".join(map(str.rstrip, lines)) for lines in blocks)


def shortened(text: str, length: int = 24) -> str:
    """The end of a long text, which is the part that differs in paths."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"...{text[3 - length :]}"


class Scale:
    """How curves are drawn as lines of text, in which a column represents the same epochs in all runs.

    A wide range of values is drawn logarithmically. `room` is the number of columns.
    """

    def __init__(self, low: float, high: float, n_epochs: int, room: int):
        self.low, self.high, self.n_epochs, self.n_columns = low, high, n_epochs, min(n_epochs, room)
        self.position = math.log if low > 0 and high > 10 * low else float
        self.signs = BLOCKS if can_print(BLOCKS) else SIGNS

    def drawn(self, curve: Sequence[object]) -> str:
        """A curve as text; a gap where it has no number."""
        bounds = [n * self.n_epochs // self.n_columns for n in range(self.n_columns + 1)]
        parts = [curve[start:stop] for start, stop in pairwise(bounds)]
        return "".join(self.sign([float(value) for value in part if is_finite(value)]) for part in parts)

    def sign(self, values: Sequence[float]) -> str:
        """The mean of some values as one sign."""
        if not values:
            return " "
        low, high, mean = map(self.position, (self.low, self.high, fmean(values)))
        share = (mean - low) / (high - low) if high > low else 0.0
        return self.signs[min(max(int(share * len(self.signs)), 0), len(self.signs) - 1)]


def can_print(text: str) -> bool:
    """Can standard output show this text?"""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
