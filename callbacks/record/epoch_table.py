"""Formats the results of epochs as a table: rows for a terminal, and HTML for a notebook."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from callbacks.core.contract import LearnerProtocol
from callbacks.history.history import show
from callbacks.record.metrics import Metrics

#: A setting of the optimizer, as Metrics and LRMonitor name it.
SETTING = re.compile(r"lr|(lr|momentum|weight_decay)_\d+")
OF_A_PASS = ("train_", "valid_")
NARROWEST = 9  # characters of a column of numbers: `-0.000123` and `1.234e-05` fit
N_LAST = 30  # rows of a table in a notebook


class EpochTable:
    """A table with a row for each epoch, and the most important columns that fit.

    From the most important to the least: monitored results, losses, metrics of validation and of training,
    the learning rate, other results. A result of a callback that nothing monitors has no column: it is in the
    history.
    """

    def __init__(
        self, n_epochs: int, width: int | None, monitored: Iterable[str] = (), aside: Iterable[str] = ()
    ):
        self.width, self.monitored, self.aside = width, tuple(monitored), set(aside)
        self.left_out: list[str] = []
        self._epoch_width = max(len("epoch"), len(str(n_epochs - 1)))
        self._columns: list[str] = []
        self._known: dict[str, None] = {}
        self._rows: list[tuple[int, dict[str, Any], str]] = []

    def lines(self, epoch: int, results: dict[str, Any], seconds: float) -> list[str]:
        """The row of an epoch, after a header if columns are new, or after dots for epochs without a row."""
        numbers = {name: value for name, value in results.items() if self._is_shown(name, value)}
        header: list[str] = []
        if not self._rows or not numbers.keys() <= self._known.keys():
            self._known |= dict.fromkeys(numbers)
            self._columns = self._choose(list(self._known))
            header = [self._header()]
        elif epoch > self._rows[-1][0] + 1:
            header = [f"{'...':>{self._epoch_width}}"]
        row = epoch, numbers, duration(seconds)
        self._rows.append(row)
        del self._rows[1 : max(1, len(self._rows) - N_LAST)]  # keeps the first and the last ones
        return [*header, self._row(*row)]

    def text(self) -> list[str]:
        """The table for a notebook that shows no HTML."""
        return [self._header(), *(self._row(*row) for row in self._rows)]

    def html(self, best_epoch: int | None = None) -> str:
        """The table for a notebook, the row of the best epoch in bold."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("epoch", *self._columns, "time"))
        lines = [f"<tr>{head}</tr>"]
        for number, (epoch, numbers, time) in enumerate(self._rows):
            if number == 1 and epoch > self._rows[0][0] + 1:
                lines.append(f'<tr><td colspan="{len(self._columns) + 2}">&hellip;</td></tr>')
            cells = [str(epoch), *(html.escape(show(numbers.get(name))) for name in self._columns), time]
            mark = "<td><b>{}</b></td>" if epoch == best_epoch else "<td>{}</td>"
            lines.append(f"<tr>{''.join(map(mark.format, cells))}</tr>")
        return "<table>\n" + "\n".join(lines) + "\n</table>"

    def _is_shown(self, name: str, value: Any) -> bool:
        if not isinstance(value, (int, float)):
            return False
        if name in self.monitored:
            return True
        return name == "lr" or not (SETTING.fullmatch(name) or name in self.aside)

    def _choose(self, names: list[str]) -> list[str]:
        """The columns that fit, in the order in which they are shown."""
        room = None if self.width is None else self.width - self._epoch_width - len("  9:59:59")
        chosen: list[str] = []
        for name in sorted(names, key=lambda name: importance(name, self.monitored)):
            if room is not None and chosen and width_of(name) + 2 > room:
                break
            chosen.append(name)
            room = None if room is None else room - width_of(name) - 2
        self.left_out = [name for name in names if name not in chosen]
        return sorted(chosen, key=place)

    def _header(self) -> str:
        names = [f"{name:>{width_of(name)}}" for name in self._columns]
        return self._line(f"{'epoch':>{self._epoch_width}}", names, "time")

    def _row(self, epoch: int, numbers: dict[str, Any], time: str) -> str:
        cells = [f"{show(numbers.get(name)):>{width_of(name)}}" for name in self._columns]
        return self._line(f"{epoch:{self._epoch_width}}", cells, time)

    def _line(self, epoch: str, cells: list[str], time: str) -> str:
        line = "  ".join([epoch, *cells, f"{time:>5}"])
        return line if self.width is None else line[: self.width]


def width_of(name: str) -> int:
    """The width of a column."""
    return max(len(name), NARROWEST)


def importance(name: str, monitored: tuple[str, ...]) -> int:
    """Rank of a column, the most important first."""
    of_validation = name.startswith("valid_")
    ranks = [
        name in monitored,
        name == "valid_loss",
        name == "train_loss",
        of_validation or name.endswith("_loss"),
        name.startswith("train_"),
        name == "lr",
    ]
    return ranks.index(True) if True in ranks else len(ranks)


def place(name: str) -> int:
    """The position of a column: losses, metrics of passes, other results, the learning rate."""
    if name.endswith("_loss"):
        return 0 if name == "train_loss" else 1
    return 4 if name == "lr" else 2 if name.startswith(OF_A_PASS) else 3


def monitored_by(learn: LearnerProtocol) -> list[str]:
    """The names of results that callbacks monitor."""
    return list(dict.fromkeys(name for each in learn.callbacks for name in each.monitors))


def aside_of(learn: LearnerProtocol) -> set[str]:
    """The names of results that callbacks measure in addition to the losses and metrics of a pass."""
    found = [name for each in learn.callbacks if not isinstance(each, Metrics) for name in each.measures]
    return {name for name in found if not name.startswith(OF_A_PASS) or name.endswith("_seconds")}


def duration(seconds: float) -> str:
    """`0.3s`, `1:23`, `2:01:23`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes}:{whole:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{whole:02}"
