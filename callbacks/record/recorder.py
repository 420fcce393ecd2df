"""Record the results in the history."""

from __future__ import annotations

import math
from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.warning import warn
from callbacks.model.held import Held
from callbacks.record.timer import Stopwatch


class Recorder(Callback):
    """Record `learn.results` as a row of `learn.history` per epoch, and loss and rate of each training step.

    The loss of a step is the loss before its update. Nothing waits for the device in a batch.
    """

    only_observes = True
    order = Order.REPORT
    on_every_rank = True
    state = ("seconds",)
    seconds = Held[float]("_watch", "elapsed", "The seconds of the current epoch so far; 0 between epochs.")

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._watch = Stopwatch()
        self._kept: tuple[dict[str, Any], set[str]] | None = None  # results of an epoch, and their names
        self._has_warned = False

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._watch.start()  # an epoch may be cancelled before `before_epoch` of this callback
        learn.history.directions.update({name: better for name, better in learn.measured.items() if better})

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._warn_of_late_results()
        self._watch.start()

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            learn.history.add_step(learn.loss_value, learn.optimizer.param_groups[0].get("lr", math.nan))

    def after_epoch(self, learn: LearnerProtocol) -> None:
        seconds = self._watch.stop()
        learn.history.add_epoch(learn.results, learn.ranks.first(lambda: seconds))
        self._kept = learn.results, set(learn.results)

    def after_fit(self, learn: LearnerProtocol) -> None:
        self._warn_of_late_results()
        if learn.stop_reason:
            learn.history.stops.append((len(learn.history) - 1, learn.stop_reason))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._watch.stop()
        self._kept, self._has_warned = None, False
        learn.history.read()

    def _warn_of_late_results(self) -> None:
        """Warn of results that were written after the epoch's row: no history, line or log has them."""
        results, names = self._kept or ({}, set())
        late = [name for name in results if name not in names]
        self._kept = None
        if late and not self._has_warned:
            self._has_warned = True
            warn(
                f"learn.results[{late[0]!r}] was written in after_epoch after the history had its row, "
                "so it is neither recorded nor shown. Measure before other callbacks report: order = "
                "Order.MEASURE in the callback."
            )
