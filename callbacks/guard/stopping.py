"""Stop when training no longer helps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.output import print_line
from callbacks.core.settings import check_number
from callbacks.model.held import Held
from callbacks.results.best import Best
from callbacks.results.measured_weights import MeasuredWeights, copy_weights, put_weights


class EarlyStopping(Callback):
    """Stop when a result has not improved for some epochs in a row, and restore the best weights.

    Weights and buffers of the best epoch, including those of a loss that is a module, are restored at the end
    of the fit (as in Keras), but not after an error or Ctrl-C. The optimizer is not changed. Each fit starts
    without a best value. Epochs that lack the result do not count.

    The best weights are the weights that were measured. For a validation result, these are the weights at the
    end of the epoch. A result of the training pass, such as `"train_loss"`, is measured before each update.
    If the epoch has one update, as with a single batch, the weights before this update are restored. If it
    has several updates, or batches after the update, the result is a mean over changing weights, and the
    weights at the end of the epoch are restored.

    Args:
        monitor: name of the result, such as `"valid_loss"`, `"valid_accuracy"` or `"train_loss"`.
        patience: number of epochs in a row without a better value after which the fit ends.
        min_delta: a value counts as better only if the difference is larger than this, in the unit of the
            result.
        mode: `"min"` or `"max"`; by default the direction of the loss or metric.
        restore_best: restore the best weights; a copy of them is kept in main memory.
        stopping_threshold: stop when the value is this or better; the weights of that epoch are the best.
        divergence_threshold: stop when the value is this, worse, or NaN.

    Attributes:
        best: the best value of this fit, or of the last one; None before the first. NaN is never better.
        best_epoch: the epoch of the best value, from 0 in each fit.
        wait: epochs since then.

    Raises:
        TypeError, ValueError: a setting is invalid; or, before the first epoch, no result has that name, or
            its direction is unknown.
    """

    order = Order.DECIDE
    state = ("best", "best_epoch", "wait", "best_weights", "best_beside", "best_moment", "pass_start")
    best = Held[float | None]("_best", "value", "The best value of this fit, or of the last one.")
    best_epoch = Held[int | None]("_best", "epoch", "The epoch of the best value, from 0 in each fit.")
    direction = Held[Direction | None]("_best", "direction", "Better: min or max.")  # type: ignore[assignment]
    pass_start = Held[dict[str, Any] | None]("_measured", "start", "Step and weights at the epoch's start.")

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Direction | None = None,
        restore_best: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if type(patience) is not int or patience < 1:
            raise ValueError(
                f"EarlyStopping(patience={patience!r}): patience must be a whole number of epochs; 1 "
                "stops at the first epoch that is not better."
            )
        self._best = Best(monitor, owner="EarlyStopping", mode=mode, min_delta=min_delta)
        self.monitor, self.patience, self.restore_best = monitor, patience, restore_best
        self.stopping_threshold = check_threshold("stopping_threshold", stopping_threshold)
        self.divergence_threshold = check_threshold("divergence_threshold", divergence_threshold)
        self.wait = 0
        self.best_weights: dict[str, Tensor] | None = None
        self.best_beside: dict[str, Tensor] | None = None  # those of the loss, and in plain attributes
        self._measured = MeasuredWeights(monitor)
        self.best_moment = ""  # when in the best epoch the weights were measured, in words
        self._is_mentioned = False  # does the stop reason mention the restored weights?

    @property
    def restores_weights(self) -> bool:  # type: ignore[override]
        """Are the weights of the best epoch restored when the fit ends?"""
        return self.restore_best

    @property
    def monitors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The result that is monitored."""
        return (self._best.monitor,)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._best.monitor = self._measured.monitor = self.monitor  # the user may have changed it
        self._best.begin(learn)
        self._check_thresholds()
        self._measured.begin_fit()
        self.wait, self.best_weights, self.best_beside = 0, None, None
        self.best_moment, self._is_mentioned = "", False

    def before_train(self, learn: LearnerProtocol) -> None:
        if self.restore_best:
            self._measured.before_train(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        self._measured.after_train(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        better = self._best.update(learn)
        if better is None:
            return
        value = learn.results[self._best.monitor]
        if self._is_reached(value) and not better:  # better by less than min_delta
            self.best, self.best_epoch, better = value, learn.epoch, True
        self.wait = 0 if better else self.wait + 1
        if better and self.restore_best:
            before_update = self._measured.release()
            self.best_weights, self.best_beside = (
                before_update["weights"] if before_update else copy_weights(learn)
            )
            self.best_moment = self._measured.moment
        self._measured.release()
        reason = self._reason(value)
        if reason and learn.epoch + 1 < learn.n_epochs:
            learn.stop(reason)
            self._is_mentioned = learn.stop_reason == reason and "restored" in reason

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.best_weights is None or learn.interrupted is not None:
            return
        put_weights(learn, (self.best_weights, self.best_beside or {}))
        is_last = self.best_epoch == learn.epoch and "before" not in self.best_moment
        is_shown = any(each.shows_progress for each in learn.callbacks)
        if is_shown and not (is_last or self._is_mentioned):
            print_line(
                f"restored the weights of epoch {self.best_epoch}{self.best_moment}, the best by "
                f"{self.monitor}: {self.best:.6g}"
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.best_weights = self.best_beside = None  # as large as the model; the numbers stay for the user
        self._measured.begin_fit()

    def _check_thresholds(self) -> None:
        """Refuse a stopping threshold that is not better than the divergence threshold."""
        good, bad = self.stopping_threshold, self.divergence_threshold
        if good is not None and bad is not None and (bad <= good) == (self._best.direction == "min"):
            raise ValueError(
                f"EarlyStopping(stopping_threshold={good!r}, divergence_threshold={bad!r}): the "
                f"direction of {self.monitor} is {self._best.direction!r}, so the first is never reached "
                "before the second. Swap them, or set mode."
            )

    def _is_reached(self, value: float) -> bool:
        """Has the value reached the stopping threshold?"""
        good = self.stopping_threshold
        return good is not None and (value <= good if self._best.direction == "min" else value >= good)

    def _is_diverged(self, value: float) -> bool:
        """Has the value reached the divergence threshold, or is it NaN?"""
        bad = self.divergence_threshold
        return bad is not None and not (value < bad if self._best.direction == "min" else value > bad)

    def _reason(self, value: float) -> str | None:
        """The reason to stop after this epoch, or None."""
        if self._is_reached(value):
            return f"{self.monitor} has reached {self.stopping_threshold:g}: it is {value:.6g}"
        if self._is_diverged(value):
            return f"{self.monitor} diverges: it is {value:.6g}, past {self.divergence_threshold:g}"
        if self.wait < self.patience:
            return None
        if self.best is None:
            return f"{self.monitor} has not been a finite number for {epochs(self.wait)}"
        margin = f" by more than {self._best.min_delta:g}" if self._best.min_delta else ""
        weights = f", whose weights{self.best_moment} are restored" if self.restore_best else ""
        return (
            f"{self.monitor} has not improved{margin} for {epochs(self.wait)}, now "
            f"{value:.6g}; the best was {self.best:.6g} in epoch "
            f"{self.best_epoch}{weights}"
        )


def check_threshold(argument: str, value: float | None) -> float | None:
    """A finite number, or None for no threshold."""
    form = "a finite number, or omit it"
    return None if value is None else check_number("EarlyStopping", argument, value, lambda _: True, form)


def epochs(number: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"
