"""Train for less time: budgets, short epochs, one batch."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import torch

from callbacks.core.contract import Callback, CancelTrain, CancelValidate, LearnerProtocol, Order
from callbacks.core.every import SECONDS, parse_interval
from callbacks.core.when import window_of
from callbacks.place.device import map_tensors

Pass = Literal["train", "valid"]


class StopAfter(Callback):
    """Stop the fit when it has used up a budget of time, steps, samples or epochs.

    The batch that uses up the budget is completed. If a budget of steps or samples ends together with a
    training pass, the epoch's validation still runs; a budget of time ends the fit immediately. Each fit has
    the whole budget. A resumed fit has the rest of its budget; the time before the interruption counts.

    Args:
        budget: a number and a unit, such as `"2 hours"`, `"1000 steps"`, `"1e6 samples"`, `"3 epochs"`. Steps
            are weight updates, samples are training items.

    Attributes:
        begun: `global_step` and `n_samples` when the fit started.
        seconds: how long the fit has taken; 0 outside a fit.

    Raises:
        ValueError: the unit is unknown, or the number is not positive (and whole, for steps, samples,
        epochs).
    """

    order = Order.DECIDE
    state = ("begun", "seconds")
    decides_alike = True

    def __init__(self, budget: str, *, name: str | None = None):
        super().__init__(name=name)
        self.number, self.unit = parse_interval(budget, f"StopAfter(budget={budget!r})")
        self.budget = str(budget)
        self.begun = {"step": 0, "sample": 0}
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """How long this fit has taken; 0 outside a fit."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        if self._started is not None or seconds:
            self._started = time.monotonic() - seconds

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._started = time.monotonic()
        self.begun = {"step": learn.global_step, "sample": learn.n_samples}

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training or learn.n_batches is not None or self.unit in SECONDS:
            return
        if self._is_used_up(learn):  # this batch is one more than the loader's length
            learn.batch_idx -= 1  # the last finished one
            raise CancelTrain

    def after_batch(self, learn: LearnerProtocol) -> None:
        is_last = learn.batch_idx + 1 == learn.n_batches
        if learn.training and self._is_used_up(learn) and (self.unit in SECONDS or not is_last):
            self._stop(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self._is_used_up(learn, n_epochs=learn.epoch + 1) and learn.epoch + 1 < learn.n_epochs:
            self._stop(learn)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._started = None

    def _stop(self, learn: LearnerProtocol) -> None:
        """Stop the fit; the counts of several processes are equal, but each has its own clock."""
        learn.stop(f"the budget of {self.budget} is used up", alike=self.unit not in SECONDS)

    def _is_used_up(self, learn: LearnerProtocol, n_epochs: int = 0) -> bool:
        if self.unit in SECONDS:
            return self.seconds >= self.number * SECONDS[self.unit]
        clock = {"step": learn.global_step, "sample": learn.n_samples}
        used = n_epochs if self.unit == "epoch" else clock[self.unit] - self.begun[self.unit]
        return used >= self.number


def budget_ends(learn: LearnerProtocol, begun: dict[str, int] | None = None) -> list[tuple[float, str]]:
    """Where the budgets of a fit end, in steps, samples or epochs; budgets of time are left out.

    `begun` are steps and samples when the fit starts; by default what each budget has recorded in a fit.
    """
    found = []
    for each in learn.callbacks:
        if isinstance(each, StopAfter) and each.unit not in SECONDS and window_of(each) is None:
            found.append(((begun or each.begun).get(each.unit, 0) + each.number, each.unit))
    return found


class ShortEpoch(Callback):
    """End each pass of a fit after its first batches, to try a training quickly.

    `learn.n_batches` is the shorter length. The batch after the last one is fetched and discarded.
    `validate` and `predict` outside a fit use all their data.

    Args:
        size: a share of the pass as a float in (0, 1), rounded up to whole batches, or a whole number of
            batches of at least 1.
        on: the passes that are shortened.

    Raises:
        ValueError: a setting is invalid; or, when the pass starts, `size` is a share and the length of the
            data is not known.
    """

    order = Order.PREPARE  # before other callbacks get a batch that is not trained on
    decides_alike = True

    def __init__(
        self, size: float, *, on: Literal["train", "valid", "both"] = "both", name: str | None = None
    ):
        super().__init__(name=name)
        is_share = type(size) is float and 0 < size < 1
        if not is_share and (type(size) is not int or size < 1):
            raise ValueError(
                f"ShortEpoch({size!r}): pass a share between 0 and 1, such as 0.1, or a whole number of "
                "batches, such as 1. For whole epochs, leave ShortEpoch out."
            )
        self.size, self.on = size, on
        self._is_fitting = False
        self._limits: dict[bool, int | None] = {}  # of the passes now: of training (True), of validation

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting, self._limits = True, {}

    def before_train(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "train")

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "valid")

    def before_batch(self, learn: LearnerProtocol) -> None:
        limit = self._limits.get(learn.training)
        if limit is None or learn.batch_idx < limit:
            return
        learn.batch_idx = limit - 1  # the last finished one
        raise CancelTrain if learn.training else CancelValidate

    def after_train(self, learn: LearnerProtocol) -> None:
        self._limits.pop(True, None)

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._limits.pop(False, None)  # around it may be a training pass

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting, self._limits = False, {}

    def _begin(self, learn: LearnerProtocol, which: Pass) -> None:
        if self._is_fitting and self.on in (which, "both"):
            limit = n_batches_of_share(self.size, learn.n_batches, which)
            self._limits[learn.training] = limit  # even if the loader says it is shorter: it may be wrong
            if learn.n_batches is None or limit < learn.n_batches:
                learn.n_batches = limit


def n_batches_of_share(size: float, n_batches: int | None, which: str) -> int:
    """The number of batches: the number itself, or a share rounded up."""
    if isinstance(size, int):
        return size
    if n_batches is None:
        raise ValueError(
            f"ShortEpoch({size!r}): the {which} data has no known length, so a share of it cannot be "
            "computed. Pass a number of batches, such as ShortEpoch(100)."
        )
    return max(1, math.ceil(size * n_batches - 1e-9))  # 0.1 * 30 is 3.0000000000000004


def n_batches_of(loader: Any) -> int | None:
    """Number of batches; None if the loader has no length."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a generator function; a DataLoader over an iterable data set
        return None


def n_train_batches(learn: LearnerProtocol) -> int | None:
    """Batches of a training pass, fewer with `ShortEpoch`; None if the length is not known."""
    n_batches = learn.ranks.n_steps(n_batches_of(learn.data.train))
    for each in learn.callbacks:
        if isinstance(each, ShortEpoch) and each.on in ("train", "both"):
            limit = n_batches_of_share(each.size, n_batches, "train")
            n_batches = limit if n_batches is None else min(limit, n_batches)
    return n_batches


class OverfitBatch(Callback):
    """Train on the first batch again and again, to see whether the model can memorise it.

    An epoch has its usual number of steps, and validation uses the validation data. If the loss does not
    reach its smallest value, something is wrong with the model, the loss, the targets, or the rate. Callbacks
    of `TRANSFORM` draw new random numbers each time. The first batch of each fit is used. Two copies of it
    are kept on its device.

    Attributes:
        first: inputs and targets of that batch; None outside a fit.
    """

    order = Order.PREPARE
    state = ("first",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self.first: tuple[Any, Any] | None = None
        self._counts: tuple[int | None, int | None] = (None, None)  # of that batch, in several processes

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.first = None

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        ranks = learn.ranks
        if self.first is None:
            self.first = copy_of((learn.inputs, learn.targets), learn.device)
            self._counts = ranks.n_here, ranks.n_everywhere
        ranks.set_counts(*self._counts)
        learn.inputs, learn.targets = copy_of(self.first, learn.device)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.first = None


def copy_of(nest: Any, device: torch.device) -> Any:
    """A copy of tensors on the model's device, so that changes in place do not reach the original."""
    return map_tensors(nest, lambda leaf: leaf.to(device, copy=True))
