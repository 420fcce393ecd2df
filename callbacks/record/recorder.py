"""Keep what was measured in the history."""

from __future__ import annotations

import math
from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.warning import warn
from callbacks.record.timer import Stopwatch


class Recorder(Callback):
    """Keep `learn.results` as a row of `learn.history` each epoch, and loss and rate of each training step.

    The loss of a step is the one before its update. Nothing waits for the device in a batch.
    """

    order = Order.REPORT
    state = ("seconds",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._watch = Stopwatch()
        self._kept: tuple[dict[str, Any], set[str]] | None = None  # an epoch's results, and their names then
        self._has_told = False

    @property
    def seconds(self) -> float:
        """How long the epoch under way has taken; 0 where there is none."""
        return self._watch.elapsed

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._watch.elapsed = seconds

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._watch.start()  # an epoch may be cancelled before this plug-in hears of it
        learn.history.directions.update({name: better for name, better in learn.measured.items() if better})

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._tell_what_came_late()
        self._watch.start()

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            learn.history.add_step(learn.loss_value, learn.optimizer.param_groups[0].get("lr", math.nan))

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.history.add_epoch(learn.results, self._watch.stop())
        self._kept = learn.results, set(learn.results)

    def after_fit(self, learn: LearnerProtocol) -> None:
        self._tell_what_came_late()
        if learn.stop_reason:
            learn.history.stops.append((len(learn.history) - 1, learn.stop_reason))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._watch.stop()
        self._kept, self._has_told = None, False
        learn.history.read()

    def _tell_what_came_late(self) -> None:
        """Warn of results that were written after the epoch's row was: no history, line or log has them."""
        results, names = self._kept or ({}, set())
        late = [name for name in results if name not in names]
        self._kept = None
        if late and not self._has_told:
            self._has_told = True
            warn(
                f"learn.results[{late[0]!r}] was written in after_epoch when the history had its row "
                "already, so it is neither kept nor shown. Measure before others report: order = "
                "Order.MEASURE in the plug-in."
            )
