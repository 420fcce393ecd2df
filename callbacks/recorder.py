"""Keep what was measured: a row an epoch, a number a step."""

from __future__ import annotations

import csv
import html
import math
import time
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcore.foundation import L

from callbacks.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.scalars import Scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Recorder(Callback):
    """Keep `learn.results` as a row of `learn.history` each epoch, and the loss and the rate of each training step.

    The loss of a step is the one before its update. Nothing waits for the device in a batch.
    """

    order = Order.REPORT

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._begun = time.perf_counter()

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            learn.history.add_step(learn.loss, learn.optimizer.param_groups[0]["lr"])

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.history.add_epoch(learn.results, time.perf_counter() - self._begun)

    def after_fit(self, learn: LearnerProtocol) -> None:
        if learn.stop_reason:
            learn.history.stops.append((len(learn.history) - 1, learn.stop_reason))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        learn.history.read()


class History:
    """What was measured, as data: continuous over several fits.

    `history[-1]["valid_loss"]` is a number of the last epoch, `history["valid_loss"]` a whole column,
    `history.steps["train_loss"]` the loss of each training step as an array of floats. Its length is the
    number of epochs.

    Attributes:
        rows: a dict for each epoch, with `epoch` (from 0, over all fits), the results by name, and `seconds`.
        stops: `(epoch, reason)` for each fit that was stopped before its end.
    """

    def __init__(self):
        self.rows: list[dict[str, Any]] = []
        self.stops: list[tuple[int, str]] = []
        self._losses, self._rates = Scalars(), Scalars()

    @property
    def steps(self) -> dict[str, array[float]]:
        """`train_loss` and `lr` of each training step; reads what is still on the device."""
        return {"train_loss": self._losses.read(), "lr": self._rates.read()}

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they first appeared."""
        return list({name: None for row in self.rows for name in row})

    def add_step(self, loss: Any, rate: Any) -> None:
        """Add a training step's loss and learning rate."""
        self._losses.append(loss)
        self._rates.append(rate)

    def add_epoch(self, results: dict[str, Any], seconds: float) -> None:
        """Add an epoch's row."""
        self.rows.append({"epoch": len(self.rows), **results, "seconds": seconds})

    def read(self) -> None:
        """Bring from the device what is still there."""
        self._losses.read()
        self._rates.read()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """A row by its number, rows by a slice, or a column by its name (None where a row has no such number).

        Raises:
            KeyError: no column has that name.
        """
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.names:
            raise KeyError(
                f"the history has no column {key!r}. There are: {', '.join(self.names) or 'none yet'}."
            )
        return L(row.get(key) for row in self.rows)

    def best(self, name: str, mode: Direction | None = None) -> dict[str, Any]:
        """The row in which a number was best; NaN is never best.

        Args:
            name: a column.
            mode: `"min"` or `"max"`; by default smaller is better for losses and errors, larger for
                `accuracy`, `r2` and the like; needed for other names.

        Raises:
            KeyError: no column has that name.
            ValueError: the direction is not known, or no row has a number there.
        """
        mode = mode or guess_direction(name)
        if mode not in ("min", "max"):
            raise ValueError(f"best({name!r}): say which way is better, with mode='min' or mode='max'.")
        rows = [row for row, value in zip(self.rows, self[name], strict=True) if is_number(value)]
        if not rows:
            raise ValueError(f"best({name!r}): no epoch has a number there.")
        return (min if mode == "min" else max)(rows, key=lambda row: row[name])

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows as comma-separated values with a header; floats keep all their digits.

        Returns:
            The file's path.
        """
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.names)
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    def plot(self, names: Iterable[str] | None = None, *, ax: Axes | None = None) -> Axes:
        """Draw columns over epochs, on a figure of its own or on `ax`.

        Args:
            names: the columns; by default all losses.

        Returns:
            The axes; `.figure.savefig(path)` keeps the picture.
        """
        from callbacks.drawing import new_axes

        ax = ax or new_axes(6, 4)
        for name in names or [name for name in self.names if name.endswith("loss")]:
            ax.plot(
                self["epoch"],
                [math.nan if value is None else value for value in self[name]],
                label=name,
                marker=".",
            )
        ax.set_xlabel("epoch")
        ax.legend()
        return ax

    def state_dict(self) -> dict[str, Any]:
        """A copy of all, as plain data."""
        steps = {name: values[:] for name, values in self.steps.items()}
        return {"rows": [dict(row) for row in self.rows], "stops": list(self.stops), "steps": steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; it stays usable."""
        self.rows = [dict(row) for row in state["rows"]]
        self.stops = list(state["stops"])
        self._losses, self._rates = Scalars(state["steps"]["train_loss"][:]), Scalars(state["steps"]["lr"][:])

    def _table(self) -> list[list[str]]:
        return [self.names, *([show(row.get(name)) for name in self.names] for row in self.rows)]

    def __repr__(self) -> str:
        if not self.rows:
            return "History: no epochs yet"
        widths = [max(map(len, column)) for column in zip(*self._table(), strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in self._table())

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in line] for line in self._table()]
        lines = ["".join(f"<td>{cell}</td>" for cell in line) for line in body]
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def show(value: Any) -> str:
    """A number as it is shown in tables: four decimals or six digits."""
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"
    return "" if value is None else str(value)


def is_number(value: Any) -> bool:
    """A number that can be compared: not None, not NaN, not a list."""
    return isinstance(value, (int, float)) and not math.isnan(value)


def guess_direction(name: str) -> Direction | None:
    """Which way is better for a column, by the names of our own losses and metrics."""
    ending = name.removeprefix("train_").removeprefix("valid_")
    if ending in ("loss", "mse", "rmse", "mae"):
        return "min"
    return "max" if ending in ("accuracy", "r2") else None
