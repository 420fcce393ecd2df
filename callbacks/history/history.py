"""What was measured, as data: a row for each epoch, a number for each step."""

from __future__ import annotations

import csv
import html
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from fastcore.foundation import L

from callbacks.history import history_plot
from callbacks.history.direction import Direction, guess_direction
from callbacks.history.packed_rows import PackedRows, named
from callbacks.history.paths import as_path, replacing
from callbacks.history.scalars import Scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_SHOWN = 15  # rows at each end of a long history, so it fits a screen
N_SEARCHED = 100_000  # rows that are searched for the best number at most; this takes 0.03 s per column


class History:
    """Everything that a learner has recorded, over all of its fits.

    `history[-1]["valid_loss"]` is a number of the last epoch, `history["valid_loss"]` a whole column, and
    `history.steps["train_loss"]` the loss of each training step as an array of floats. `len(history)` is the
    number of epochs.

    Attributes:
        rows: a dict for each epoch, with `epoch` (from 0, over all fits), the results by name, and `seconds`.
        stops: `(epoch, reason)` for each fit that was stopped before its end.
        validations: a dict for each validation that `ValidateEvery` asked for or saw at an epoch's end, with
            `step`, `epoch` and the results by name.
        directions: `"min"` or `"max"` by column: the direction in which it improves, if its metric declares
            one.
    """

    def __init__(self):
        self.rows: list[dict[str, Any]] = []
        self.stops: list[tuple[int, str]] = []
        self.validations: list[dict[str, Any]] = []
        self.directions: dict[str, Direction] = {}
        self._losses, self._rates = Scalars(), Scalars()
        self._packed_rows, self._packed_validations = PackedRows(), PackedRows()

    @property
    def steps(self) -> dict[str, array[float]]:
        """`train_loss` and `lr` of each training step; reads what is still on the device."""
        return {"train_loss": self._losses.read(), "lr": self._rates.read()}

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they first appeared."""
        return names_in(self.rows)

    def add_step(self, loss: Any, rate: Any) -> None:
        """Add a training step's loss and learning rate."""
        self._losses.append(loss)
        self._rates.append(rate)

    def add_epoch(self, results: dict[str, Any], seconds: float) -> None:
        """Add an epoch's row."""
        self.rows.append({"epoch": len(self.rows), **named(results), "seconds": seconds})

    def add_validation(self, step: int, results: dict[str, Any]) -> None:
        """Add the results of a validation at this step, in the epoch whose row does not exist yet.

        They replace those of the same step, as the last step of an epoch is not known if its data has no
        length.
        """
        row = {"step": step, "epoch": len(self.rows), **named(results)}
        before = self.validations[-1] if self.validations else {}
        if (before.get("step"), before.get("epoch")) == (step, len(self.rows)):
            self.validations.pop()
        self.validations.append(row)

    def read(self) -> None:
        """Copy numbers that are still on the device to main memory."""
        self._losses.read()
        self._rates.read()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """A row by its number, rows by a slice, or a column by its name (None where a row lacks it).

        Raises:
            KeyError: no column has that name.
        """
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.names:
            raise KeyError(
                f"the history has no column {key!r}. Available: {', '.join(self.names) or 'none yet'}."
            )
        return L(row.get(key) for row in self.rows)

    def best(self, name: str, mode: Direction | None = None) -> dict[str, Any]:
        """The row in which a number was best; NaN is never best.

        Args:
            name: a column.
            mode: `"min"` or `"max"`; by default the direction that the metric declares, as in
                `EarlyStopping`; required for other names.

        Raises:
            KeyError: no column has that name.
            ValueError: the direction is not known, or no row has a number there.
        """
        values = self[name]
        mode = mode or self.direction_of(name)
        if mode not in ("min", "max"):
            raise ValueError(
                f"best({name!r}): pass the direction in which it is better, mode='min' or mode='max'."
            )
        rows = [row for row, value in zip(self.rows, values, strict=True) if is_comparable(value)]
        if not rows:
            raise ValueError(f"best({name!r}): no epoch has a value of it.")
        return (min if mode == "min" else max)(rows, key=lambda row: row[name])

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows as comma-separated values with a header; floats keep all their digits.

        Returns:
            The file's path.
        """
        path = as_path("to_csv", "path", path, "the name of a file, such as 'history.csv'")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    def plot(
        self,
        names: str | Iterable[str] | None = None,
        *,
        ax: Axes | None = None,
        yscale: history_plot.YScale = "linear",
    ) -> Axes:
        """Draw results over epochs: a panel for the losses, and one for each metric.

        If it is known which direction is better, the title of a panel names the best epoch, and a star marks
        it. A dotted line shows where a fit was stopped.

        Args:
            names: one or several columns, which share a panel; by default all losses and metrics or, if no
                epoch has a loss, the loss of each training step.
            ax: where to draw; by default a new figure. On your own axes everything is drawn in one panel, by
                default only the losses.
            yscale: `"log"` for a logarithmic y axis.

        Returns:
            The axes of the first panel; `.figure.savefig(path)` writes the plot.

        Raises:
            KeyError: no column has that name.
            TypeError: a column holds something other than numbers.
            ValueError: there is nothing to draw yet, or the scale is not known.
        """
        return history_plot.plot(self, names, ax, yscale)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything, as plain data."""
        steps = {name: values[:] for name, values in self.steps.items()}
        return {
            "rows": [dict(row) for row in self.rows],
            "stops": list(self.stops),
            "validations": [dict(row) for row in self.validations],
            "directions": dict(self.directions),
            "steps": steps,
        }

    def contents(self) -> dict[str, Any]:
        """The state for a file, whose rows are packed; not a copy: further epochs change it."""
        return {
            "rows": self._packed_rows.pack(self.rows),
            "stops": self.stops,
            "validations": self._packed_validations.pack(self.validations),
            "directions": self.directions,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, which stays usable."""
        self.rows = [dict(row) for row in state["rows"]]
        self.stops = list(state["stops"])
        self.validations = [dict(row) for row in state.get("validations", ())]  # older files have none
        self.directions = dict(state.get("directions", self.directions))
        self._losses, self._rates = Scalars(state["steps"]["train_loss"][:]), Scalars(state["steps"]["lr"][:])

    def _ends(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows that are shown: all, or the first and the last of a long history."""
        if len(self) <= 2 * N_SHOWN + 1:
            return self.rows, []
        return self.rows[:N_SHOWN], self.rows[-N_SHOWN:]

    def _notes(self) -> list[str]:
        return [f"stopped in epoch {epoch}: {reason}" for epoch, reason in self.stops]

    def __repr__(self) -> str:
        if not self.rows:
            return "History: no epochs yet"
        first, last = self._ends()
        rows = [*first, *last]
        columns = [[name, *(show(row.get(name)) for row in rows)] for name in names_in(rows)]
        blocks = text_blocks(columns, get_terminal_size().columns)
        if last:
            for lines in blocks:
                lines.insert(1 + len(first), "...".rjust(max(map(len, columns[0]))))
        return "\n".join(["\n\n".join(map("\n".join, blocks)), *self._notes()])

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>History: no epochs yet</p>"
        ends = self._ends()
        names = names_in([*ends[0], *ends[1]])
        best = {name: self._best_number(name) for name in names if len(self) <= N_SEARCHED}
        first, last = (html_rows(rows, names, best) for rows in ends)
        gap = [f'<tr><td colspan="{len(names)}">&hellip;</td></tr>'] if last else []
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "\n".join([f"<tr>{head}</tr>", *first, *gap, *last])
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return f"<table>\n{body}\n</table>{notes}"

    def direction_of(self, name: str) -> Direction | None:
        """The direction in which a column is better; None if it is not known."""
        return self.directions.get(name) or guess_direction(name)

    def _best_number(self, name: str) -> float | None:
        direction = self.direction_of(name)
        numbers = [row[name] for row in self.rows if is_comparable(row.get(name))] if direction else []
        if not numbers:
            return None
        return min(numbers) if direction == "min" else max(numbers)


def text_blocks(
    columns: Sequence[Sequence[str]], width: int, align: Callable[[str, int], str] = str.rjust
) -> list[list[str]]:
    """The lines of a table in blocks that fit a screen, each with the first column, which `align` aligns."""
    blocks = [[columns[0]]]
    for column in columns[1:]:
        used = sum(max(map(len, each)) + 2 for each in (*blocks[-1], column)) - 2
        if used > width and len(blocks[-1]) > 1:
            blocks.append([columns[0]])
        blocks[-1].append(column)
    found = []
    for block in blocks:
        first, *widths = [max(map(len, column)) for column in block]
        rows = zip(*block, strict=True)
        found.append(["  ".join([align(row[0], first), *map(str.rjust, row[1:], widths)]) for row in rows])
    return found


def show(value: Any) -> str:
    """A number as it is shown in tables: four decimals, or four digits of very small and large ones."""
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"
    return "" if value is None else str(value)


def names_in(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The columns of these rows, in the order in which they first appear."""
    return list({name: None for row in rows for name in row})


def html_rows(rows: list[dict[str, Any]], names: list[str], best: dict[str, float | None]) -> list[str]:
    """Rows of a table, the best number of each loss and metric in bold."""
    lines = []
    for row in rows:
        cells = []
        for name in names:
            cell = html.escape(show(row.get(name)))
            is_best = best.get(name) is not None and row.get(name) == best[name]
            cells.append(f"<td><b>{cell}</b></td>" if is_best else f"<td>{cell}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return lines


def is_comparable(value: Any) -> bool:
    """A number that can be compared: not None, not NaN, not a list."""
    return isinstance(value, (int, float)) and not math.isnan(value)
