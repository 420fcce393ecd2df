"""Runs side by side: their results, curves, and the settings in which they differ."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from shutil import get_terminal_size
from statistics import fmean
from typing import TypeGuard

from callbacks.history.history import folded
from learner.report.page import shown
from learner.report.records import Record, flattened, record_of_folder, record_of_learner
from learner.report.run_page import duration, ordered
from learner.state.protocol import FullLearner

BLOCKS, SIGNS = "▁▂▃▄▅▆▇█", "_.-~=+*#"  # heights of a curve, the second if the output has no blocks
MISSING = "-"


class Comparison:
    """Several runs side by side; printed as tables that fit the terminal, and written as a page.

    Attributes:
        records: the runs.
        names: a name for each run that no other one has.
    """

    def __init__(self, records: Sequence[Record]):
        self.records, self.names = list(records), distinct_names(records)

    @property
    def results(self) -> list[str]:
        """The results that any run measures, what the first run monitors first."""
        main = [record.main_result for record in self.records if record.main_result][:1]
        return list(dict.fromkeys([*main, *(name for each in self.records for name in ordered(each))]))

    def value(self, record: Record, name: str) -> float | None:
        """The best value of a result, or the last one if its better direction is not known."""
        best = record.best(name)
        if best is not None:
            return float(best.value)
        found = [row[name] for row in record.rows if isinstance(row.get(name), (int, float))]
        return float(found[-1]) if found else None

    def winners(self, name: str) -> set[int]:
        """The positions of the runs whose value is best; empty if fewer than two have one."""
        found = {n: each.best(name) for n, each in enumerate(self.records)}
        values = {n: best.value * (1 if best.direction == "min" else -1) for n, best in found.items() if best}
        return {n for n in values if values[n] == min(values.values())} if len(values) > 1 else set()

    @property
    def differences(self) -> dict[str, list[str]]:
        """The settings that are not the same in all runs, by dotted path, with the value of each run."""
        settings = [settings_of(record) for record in self.records]
        paths = dict.fromkeys(path for each in settings for path in each)
        found = {path: [each.get(path, MISSING) for each in settings] for path in paths}
        return {path: values for path, values in found.items() if len(set(values)) > 1}

    def __repr__(self) -> str:
        width = get_terminal_size((80, 24)).columns
        return "\n\n".join(filter(None, [self._table(width), self._curves(width), self._settings(width)]))

    def _table(self, width: int) -> str:
        columns = [["run", *map(shortened, self.names)]]
        columns.append(["epochs", *(str(len(each.rows)) for each in self.records)])
        times = [each.seconds for each in self.records]
        columns.append(["time", *(MISSING if each is None else duration(each) for each in times)])
        columns += [self._column(name) for name in self.results]
        return f"{tabulated(columns, width)}\n\n* is best. Each result is the best of its run's epochs."

    def _column(self, name: str) -> list[str]:
        best, cells = self.winners(name), []
        for n, record in enumerate(self.records):
            value = self.value(record, name)
            cells.append((MISSING if value is None else shown(value)) + ("*" if n in best else " "))
        return [f"{name} ", *cells]

    def _curves(self, width: int) -> str:
        name = self.results[0] if self.results else ""
        curves = [[row.get(name) for row in each.rows] for each in self.records]
        values = [float(value) for curve in curves for value in curve if is_finite(value)]
        names = [shortened(each) for each in self.names]
        room = width - max(map(len, names)) - 2
        if not values or room < 10:
            return ""
        scale = Scale(min(values), max(values), max(map(len, curves)), room)
        title = f"{name} by epoch, from {shown(scale.low)} (lowest) to {shown(scale.high)} (highest)"
        lines = [
            f"{each:{width - room - 2}}  {scale.drawn(curve)}"
            for each, curve in zip(names, curves, strict=True)
        ]
        return "\n".join([title, *map(str.rstrip, lines)])

    def _settings(self, width: int) -> str:
        found = self.differences
        if not found:
            return "The settings do not differ."
        columns = [["setting", *(shortened(path, 44) for path in found)]]
        for n, name in enumerate(self.names):
            columns.append([shortened(name), *(shortened(values[n]) for values in found.values())])
        return tabulated(columns, width)


def compare(*runs: str | Path | FullLearner) -> Comparison:
    """Compare runs: their results, curves, and the settings in which they differ.

    Args:
        runs: folders of runs, or learners; at least two.

    Raises:
        ValueError: there are fewer than two, one is given twice, or a folder is not a run's folder.
    """
    if len(runs) < 2:
        raise ValueError(
            f"compare: {len(runs)} run given. Pass at least two, as runs/digits-1 runs/digits-2."
        )
    keys = [Path(run).resolve() if isinstance(run, (str, Path)) else id(run) for run in runs]
    twice = [run for n, run in enumerate(runs) if keys[n] in keys[:n]]
    if twice:
        raise ValueError(f"compare: {twice[0]} is given twice. Pass each run once.")
    return Comparison([as_record(run) for run in runs])


def as_record(run: str | Path | FullLearner) -> Record:
    """What is known about a run."""
    return record_of_folder(run) if isinstance(run, (str, Path)) else record_of_learner(run)


def distinct_names(records: Sequence[Record]) -> list[str]:
    """The name of each run; its path if another one has the same name."""
    counts, seen = Counter(record.name for record in records), Counter()
    names = []
    for record in records:
        seen[record.name] += 1
        other = str(record.folder) if record.folder else f"{record.name} ({seen[record.name]})"
        names.append(record.name if counts[record.name] == 1 else other)
    return names


def settings_of(record: Record) -> dict[str, str]:
    """The settings of a run, and its environment."""
    return {**record.recipe, **flattened(record.facts.get("environment") or {}, "environment")}


def tabulated(columns: Sequence[Sequence[str]], width: int) -> str:
    """Columns as lines; those that do not fit stand below, again with the first one."""
    blocks = []
    for block in folded([list(column) for column in columns], width):
        widths = [max(map(len, column)) for column in block]
        rows = zip(*block, strict=True)
        blocks.append("\n".join(aligned(row, widths).rstrip() for row in rows))
    return "\n\n".join(blocks)


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """A line whose first cell is on the left, the others on the right."""
    cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    return "  ".join(cells)


def shortened(text: str, length: int = 24) -> str:
    """The end of a long text, which is the part that differs in paths."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else f"...{text[3 - length :]}"


class Scale:
    """How curves are drawn as lines of text, in which a column stands for the same epochs in all runs.

    Args:
        low, high: the range of the values; a wide one is drawn logarithmically.
        n_epochs: the length of the longest curve.
        room: number of columns there are.
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


def is_finite(value: object) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)
