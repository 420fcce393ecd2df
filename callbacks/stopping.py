"""Stop when training no longer helps."""

from __future__ import annotations

import copy
import math
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from callbacks.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.parts.modules import loss_tensors
from callbacks.parts.named import named_tensors
from callbacks.parts.plain_attributes import is_storable, plain_state, put_plain
from callbacks.parts.settings import is_number
from callbacks.parts.warning import warn


class Best:
    """The best value that one result has had, for plug-ins that compare epochs: each holds one.

    Args:
        monitor: the result's name, as `"valid_loss"`.
        owner: the plug-in's class, for messages.
        mode: which way is better; by default the way that the loss or metric tells.
        min_delta: a value is better only by more than this, in the result's own unit, at least 0.

    Attributes:
        value: the best value; None before there is one. NaN and infinity are never better.
        epoch: when that was, from 0 in each fit; None before.

    Raises:
        ValueError, TypeError: a setting cannot be used.
    """

    def __init__(self, monitor: str, *, owner: str, mode: Direction | None = None, min_delta: float = 0.0):
        if not isinstance(monitor, str):
            raise TypeError(f"{owner}(monitor={monitor!r}): pass a result's name, as 'valid_loss'.")
        if mode not in (None, "min", "max"):
            raise ValueError(
                f"{owner}(mode={mode!r}): there are 'min' and 'max', and None to ask the metric."
            )
        if not is_number(min_delta) or min_delta < 0:
            raise ValueError(f"{owner}(min_delta={min_delta!r}): write a finite number of at least 0.")
        self.monitor, self.owner, self.min_delta = monitor, owner, min_delta
        self.mode: Direction | None = mode
        self.direction: Direction | None = mode
        self.value: float | None = None
        self.epoch: int | None = None

    def begin(self, learn: LearnerProtocol) -> None:
        """Check that the result will be measured, and forget what was best; call it in `before_fit`.

        Raises:
            ValueError: nothing of that name is measured, or which way is better is not known.
        """
        self.value = self.epoch = None
        check_measured(self.monitor, learn, self.owner)
        known = learn.measured[self.monitor]
        self.direction = self.mode or known
        if self.direction is None:
            raise ValueError(
                f"{self.owner}(monitor={self.monitor!r}): which way is better is not known of that. Write "
                f"{self.owner}(..., mode='min') or mode='max', or give the metric the attribute "
                f"higher_is_better."
            )
        if known not in (None, self.direction):
            warn(
                f"{self.owner}(mode={self.mode!r}): the better way of {self.monitor} is {known!r}. "
                f"Leave mode out to go by that."
            )

    def update(self, learn: LearnerProtocol) -> bool | None:
        """Look at this epoch's result: is it the best so far? None where the epoch has no such result."""
        if self.monitor not in learn.results:
            return None
        value = learn.results[self.monitor]
        if not isinstance(value, (int, float)):
            raise ValueError(
                f"{self.owner}(monitor={self.monitor!r}): the result is {value!r}, but only a number can be "
                f"compared."
            )
        if not self.is_better(value):
            return False
        self.value, self.epoch = value, learn.epoch
        return True

    def is_better(self, value: float) -> bool:
        """Is this value better than the best one, by more than `min_delta`?"""
        if not math.isfinite(value):
            return False
        if self.value is None:
            return True
        gain = self.value - value if self.direction == "min" else value - self.value
        return gain > self.min_delta


class EarlyStopping(Callback):
    """Stop when a result has not been better for some epochs in a row, and put the best weights back.

    Weights and buffers of the best epoch, also of a loss that is a module, are put back when the fit ends,
    whether it was stopped or came to its end (as Keras does), but not after an error or Ctrl-C. The optimizer
    stays as it is. Each fit begins anew: what was best in the one before is not compared with. An epoch
    without the result does not count.

    Args:
        monitor: the result's name, as `"valid_loss"`, `"valid_accuracy"` or `"train_loss"`.
        patience: so many epochs in a row without a better value end the fit.
        min_delta: a value is better only by more than this, in the result's own unit.
        mode: `"min"` or `"max"`; by default the way that the loss or metric tells.
        restore_best: put the best weights back; a copy of them is kept in main memory.
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
    state = ("best", "best_epoch", "wait", "best_weights", "best_beside")

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
        self.best_beside: dict[str, Any] | None = None  # of the loss, and tensors in plain attributes

    @property
    def best(self) -> float | None:
        """The best value of this fit, or the last."""
        return self._best.value

    @best.setter
    def best(self, value: float | None) -> None:
        self._best.value = value

    @property
    def best_epoch(self) -> int | None:
        """When that was, from 0 in each fit."""
        return self._best.epoch

    @best_epoch.setter
    def best_epoch(self, epoch: int | None) -> None:
        self._best.epoch = epoch

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._best.monitor = self.monitor  # it may have been changed
        self._best.begin(learn)
        self._check_thresholds()
        self.wait, self.best_weights, self.best_beside = 0, None, None

    def after_epoch(self, learn: LearnerProtocol) -> None:
        better = self._best.update(learn)
        if better is None:
            return
        value = learn.results[self._best.monitor]
        if self._is_reached(value) and not better:  # better by less than min_delta
            self.best, self.best_epoch, better = value, learn.epoch, True
        self.wait = 0 if better else self.wait + 1
        if better and self.restore_best:
            self.best_weights = copy_tensors(named_tensors(learn.model))
            self.best_beside = copy_beside(learn)
        reason = self._reason(value)
        if reason and learn.epoch + 1 < learn.n_epochs:
            learn.stop(reason)

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.best_weights is not None:
            put_tensors(named_tensors(learn.model), self.best_weights)
            put_beside(learn, self.best_beside or {})

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.best_weights = self.best_beside = None  # as large as the model; the numbers stay to be looked at

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
        weights = ", whose weights are put back" if self.restore_best else ""
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


def check_measured(monitor: str, learn: LearnerProtocol, owner: str) -> None:
    """Refuse a name of which no result will come.

    Raises:
        ValueError: tells what is measured, and which name was probably meant.
    """
    names = list(learn.measured)
    if monitor in names:
        return
    argument = "best" if owner == "Checkpoint" else "monitor"
    place = f"{owner}({argument}={monitor!r})"
    if not names:
        raise ValueError(f"{place}: nothing is measured. Add the plug-in that does: callbacks=[Metrics()].")
    if learn.data.valid is None and monitor.startswith("valid_"):
        other = f"train_{monitor.removeprefix('valid_')}"
        found = other if other in names else "train_loss"
        raise ValueError(
            f"{place}: there is no validation data. Give some, with Data(train, valid), or go by the "
            f"training data with {argument}={found!r}."
        )
    close = get_close_matches(monitor, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{place}: nothing of that name is measured.{hint} There are: {', '.join(names)}. Pass one of them, "
        f"or add the metric with Learner(metrics=[...])."
    )


def copy_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of weights and buffers in main memory, where they take nothing from the device."""
    return {name: each.detach().to("cpu", copy=True) for name, each in tensors.items()}


def put_tensors(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> None:
    """Copy back into the tensors what `copy_tensors` gave."""
    with torch.no_grad():
        for name, copied in copies.items():
            tensors[name].copy_(copied)


def copy_beside(learn: LearnerProtocol) -> dict[str, Any]:
    """Copies of the loss's tensors, and of the tensors that modules keep in plain attributes."""
    plain = {key: value for key, value in plain_state(learn.model).items() if is_storable(value)}
    return {"loss": copy_tensors(loss_tensors(learn)), "plain": copy.deepcopy(plain)}


def put_beside(learn: LearnerProtocol, copies: dict[str, Any]) -> None:
    """Put back what `copy_beside` gave."""
    if copies:
        put_tensors(loss_tensors(learn), copies["loss"])
        put_plain(learn.model, {**plain_state(learn.model), **copies["plain"]})


def epochs(number: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"
