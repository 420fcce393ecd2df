"""Keep what was measured in the history."""

from __future__ import annotations

from callbacks.contract import Callback, LearnerProtocol, Order
from callbacks.timer import Stopwatch


class Recorder(Callback):
    """Keep `learn.results` as a row of `learn.history` each epoch, and loss and rate of each training step.

    The loss of a step is the one before its update. Nothing waits for the device in a batch.
    """

    order = Order.REPORT
    state = ("seconds",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._watch = Stopwatch()

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
        self._watch.start()

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            learn.history.add_step(learn.loss_value, learn.optimizer.param_groups[0]["lr"])

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.history.add_epoch(learn.results, self._watch.stop())

    def after_fit(self, learn: LearnerProtocol) -> None:
        if learn.stop_reason:
            learn.history.stops.append((len(learn.history) - 1, learn.stop_reason))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._watch.stop()
        learn.history.read()
