"""Outputs of a notebook that are replaced while a fit runs: a table, and curves below it."""

from __future__ import annotations

import time
from base64 import b64encode
from io import BytesIO
from typing import Any

from callbacks.core.contract import LearnerProtocol
from callbacks.record.epoch_table import EpochTable

PLOT_GAP = 1.0  # seconds between two drawings of the curves


class NotebookTable:
    """The table of a fit, as one output of a notebook, and the curves as a second one."""

    def __init__(self) -> None:
        self._table, self._curves = Replaced(), Replaced()
        self._next_plot = 0.0

    def show(self, table: EpochTable, best_epoch: int | None) -> None:
        """Show the table as it is now, the row of the best epoch in bold."""
        self._table.show({"text/html": table.html(best_epoch), "text/plain": "\n".join(table.text())})

    def draw(self, learn: LearnerProtocol, *, is_last: bool = False) -> None:
        """Draw the curves of the history, if some time has passed since the last drawing."""
        if len(learn.history) < 2 or not (is_last or time.monotonic() >= self._next_plot):
            return
        axes: Any = learn.history.plot()
        image = BytesIO()
        axes.figure.savefig(image, format="png", dpi=80)
        self._curves.show({"image/png": b64encode(image.getvalue()).decode(), "text/plain": "the curves"})
        self._next_plot = time.monotonic() + PLOT_GAP


class Replaced:
    """An output of a notebook that the next one replaces."""

    def __init__(self) -> None:
        self._output: Any = None

    def show(self, data: dict[str, str]) -> None:
        """Show data by MIME type."""
        if self._output is not None:
            self._output.update(data, raw=True)
            return
        from IPython.display import display

        self._output = display(data, raw=True, display_id=True)
