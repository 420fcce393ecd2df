"""Stop when training no longer helps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.output import print_line
from callbacks.core.settings import is_number
from callbacks.model.held import Held
from callbacks.results.best import Best
from callbacks.results.measured_weights import MeasuredWeights, copy_weights, put_weights


class EarlyStopping(Callback):
    """Stop when a result has not been better for some epochs in a row, and restore the best weights.

    Weights and buffers of the best epoch, also of a loss that is a module, are restored when the fit ends,
    whether it was stopped or came to its end (as Keras does), but not after an error or Ctrl-C. The optimizer
    stays as it is. Each fit starts without a best value. An epoch without the result does not count.

    The best weights are those that were measured. For a result of validation they are those at the epoch's
    end. A result of the training pass, as `"train_loss"`, is measured before each update: where the epoch has
    one update, as with one batch, the weights before it are restored. Where it has several, or batches after
    the update, the result is a mean over several weights, and those at the end of the epoch are restored.

    Args:
        monitor: the result's name, as `"valid_loss"`, `"valid_accuracy"` or `"train_loss"`.
        patience: so many epochs in a row without a better value end the fit.
        min_delta: a value is better only by more than this, in the result's own unit.
        mode: `"min"` or `"max"`; by default the way that the loss or metric tells.
        restore_best: restore the best weights; a copy of them is kept in main memory.
        stopping_threshold: stop as soon as the value is this or better; that epoch's weights are the best.
        divergence_threshold: stop as soon as the value is this, worse, or NaN.

    Attributes:
        best: the best value of this fit, or the last; None before there is one. NaN is never better.
        best_epoch: when that was, from 0 in each fit.
        wait: epochs since then.

    Raises:
        ValueError: a setting cannot be used; or, before the first epoch, nothing of that name is measured,
            or which way is better is not known.
    """

    order = Order.DECIDE
    state = ("best", "best_epoch", "wait", "best_weights", "best_beside", "best_moment", "pass_start")
    best = Held[float | None]("_best", "value", "The best value of this fit, or of the last one.")
    best_epoch = Held[int | None]("_best", "epoch", "The epoch of the best value, from 0 in each fit.")
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
                f"EarlyStopping(patience={patience!r}): write a whole number of epochs; 1 stops at the first "
                f"one that is not better."
            )
        self._best = Best(monitor, owner="EarlyStopping", mode=mode, min_delta=min_delta)
        self.monitor, self.patience, self.restore_best = monitor, patience, restore_best
        self.stopping_threshold = check_threshold("stopping_threshold", stopping_threshold)
        self.divergence_threshold = check_threshold("divergence_threshold", divergence_threshold)
        self.wait = 0
        self.best_weights: dict[str, Tensor] | None = None
        self.best_beside: dict[str, Tensor] | None = None  # of the loss, and tensors in plain attributes
        self._measured = MeasuredWeights(monitor)
        self.best_moment = ""  # of the best epoch: when the weights were its, in words
        self._is_said = False  # does the reason of the stop say what is restored?

    @property
    def restores_weights(self) -> bool:  # type: ignore[override]
        """Are the weights of the best epoch restored when the fit ends?"""
        return self.restore_best

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._best.monitor = self._measured.monitor = self.monitor  # it may have been changed
        self._best.begin(learn)
        self._check_thresholds()
        self._measured.begin_fit()
        self.wait, self.best_weights, self.best_beside = 0, None, None
        self.best_moment, self._is_said = "", False

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
            self._is_said = learn.stop_reason == reason and "restored" in reason

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.best_weights is None or learn.interrupted is not None:
            return
        put_weights(learn, (self.best_weights, self.best_beside or {}))
        is_last = self.best_epoch == learn.epoch and "before" not in self.best_moment
        is_shown = any(each.shows_progress for each in learn.callbacks)
        if is_shown and not (is_last or self._is_said):
            print_line(
                f"the weights of epoch {self.best_epoch}{self.best_moment} are restored, the best by "
                f"{self.monitor}: {self.best:.6g}"
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.best_weights = self.best_beside = None  # as large as the model; the numbers stay to be looked at
        self._measured.begin_fit()

    def _check_thresholds(self) -> None:
        """Refuse a good value that is no better than a bad one."""
        good, bad = self.stopping_threshold, self.divergence_threshold
        if good is not None and bad is not None and (bad <= good) == (self._best.direction == "min"):
            raise ValueError(
                f"EarlyStopping(stopping_threshold={good!r}, divergence_threshold={bad!r}): of "
                f"{self.monitor} {self._best.direction!r} is better, so the first one is never reached "
                "before the second. Turn them round, or set mode."
            )

    def _is_reached(self, value: float) -> bool:
        """Is the value as good as was asked for?"""
        good = self.stopping_threshold
        return good is not None and (value <= good if self._best.direction == "min" else value >= good)

    def _is_diverged(self, value: float) -> bool:
        """Is the value as bad as was told, or NaN?"""
        bad = self.divergence_threshold
        return bad is not None and not (value < bad if self._best.direction == "min" else value > bad)

    def _reason(self, value: float) -> str | None:
        """Why to stop after this epoch; None to go on."""
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
            f"{self.monitor} has not been better{margin} for {epochs(self.wait)}, now "
            f"{value:.6g}; the best was {self.best:.6g} in epoch "
            f"{self.best_epoch}{weights}"
        )


def check_threshold(argument: str, value: float | None) -> float | None:
    """A finite number, or None for no threshold."""
    if value is not None and not is_number(value):
        raise ValueError(f"EarlyStopping({argument}={value!r}): write a finite number, or leave it out.")
    return value


def epochs(number: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"
