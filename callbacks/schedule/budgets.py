"""Train for less, or measure more often: budgets, short epochs, one batch, validation in mid-epoch."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import torch

from callbacks.core.contract import Callback, CancelTrain, CancelValidate, LearnerProtocol, Order
from callbacks.core.every import SECONDS, Every, parse_interval
from callbacks.core.when import window_of
from callbacks.place.device import map_tensors

Pass = Literal["train", "valid"]


class StopAfter(Callback):
    """Stop the fit when it has used up a budget of time, steps, samples or epochs.

    The batch that uses it up is finished. Where steps or samples end together with a training pass, the
    epoch's validation still follows; a budget of time ends at once. Each fit has the whole budget; one that
    goes on from a checkpoint has what was left of it, its time before counted.

    Args:
        budget: a number and a unit, as `"2 hours"`, `"1000 steps"`, `"1e6 samples"`, `"3 epochs"`. Steps are
            weight updates, samples are training items.

    Attributes:
        begun: steps and samples of the clock when the fit began.
        seconds: how long the fit has taken; 0 where none is under way.

    Raises:
        ValueError: no such unit, or a number that is not positive (and whole, where things are counted).
    """

    order = Order.DECIDE
    state = ("begun", "seconds")

    def __init__(self, budget: str, *, name: str | None = None):
        super().__init__(name=name)
        self.number, self.unit = parse_interval(budget, f"StopAfter(budget={budget!r})")
        self.budget = str(budget)
        self.begun = {"step": 0, "sample": 0}
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """How long the fit under way has taken; 0 where there is none."""
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
        if self._is_used_up(learn):  # with the last batch that the loader's length tells; this is one more
            learn.batch_idx -= 1  # the last one that was done
            raise CancelTrain

    def after_batch(self, learn: LearnerProtocol) -> None:
        is_last = learn.batch_idx + 1 == learn.n_batches
        if learn.training and self._is_used_up(learn) and (self.unit in SECONDS or not is_last):
            learn.stop(f"the budget of {self.budget} is used up")

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self._is_used_up(learn, n_epochs=learn.epoch + 1) and learn.epoch + 1 < learn.n_epochs:
            learn.stop(f"the budget of {self.budget} is used up")

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._started = None

    def _is_used_up(self, learn: LearnerProtocol, n_epochs: int = 0) -> bool:
        if self.unit in SECONDS:
            return self.seconds >= self.number * SECONDS[self.unit]
        clock = {"step": learn.global_step, "sample": learn.n_samples}
        used = n_epochs if self.unit == "epoch" else clock[self.unit] - self.begun[self.unit]
        return used >= self.number


def budget_ends(learn: LearnerProtocol, begun: dict[str, int] | None = None) -> list[tuple[float, str]]:
    """Where the budgets of a fit end: steps and samples of the clock, epochs of the fit; times are not known.

    Args:
        learn: the learner.
        begun: the clock at the fit's begin; by default as each budget has it, in a fit.
    """
    found = []
    for each in learn.callbacks:
        if isinstance(each, StopAfter) and each.unit not in SECONDS and window_of(each) is None:
            found.append(((begun or each.begun).get(each.unit, 0) + each.number, each.unit))
    return found


class ShortEpoch(Callback):
    """End each pass of a fit after its first batches, to try out a composition quickly.

    `learn.n_batches` tells the shorter length. The batch after the last one is fetched and thrown away.
    `validate` and `predict` outside of a fit see all of their data.

    Args:
        size: a share of the pass as a float in (0, 1), rounded up to whole batches, or a whole number of
            batches of at least 1.
        on: the passes that are cut.

    Raises:
        ValueError: a setting cannot be used; or, at the pass's begin, a share of data whose length is not
            known.
    """

    order = Order.PREPARE  # before others hear of a batch that does not count

    def __init__(
        self, size: float, *, on: Literal["train", "valid", "both"] = "both", name: str | None = None
    ):
        super().__init__(name=name)
        is_share = type(size) is float and 0 < size < 1
        if not is_share and (type(size) is not int or size < 1):
            raise ValueError(
                f"ShortEpoch({size!r}): write a share between 0 and 1, as 0.1, or a whole number of batches, "
                "as 1. For whole epochs leave ShortEpoch out."
            )
        if on not in ("train", "valid", "both"):
            raise ValueError(f"ShortEpoch(on={on!r}): there are 'train', 'valid' and 'both'.")
        self.size, self.on = size, on
        self._is_fitting = False
        self._limit: int | None = None  # of the pass under way

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting, self._limit = True, None

    def before_train(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "train")

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "valid")

    def before_batch(self, learn: LearnerProtocol) -> None:
        if self._limit is None or learn.batch_idx < self._limit:
            return
        learn.batch_idx = self._limit - 1  # the last one that was done
        raise CancelTrain if learn.training else CancelValidate

    def after_train(self, learn: LearnerProtocol) -> None:
        self._limit = None

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._limit = None

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting, self._limit = False, None

    def _begin(self, learn: LearnerProtocol, which: Pass) -> None:
        if self._is_fitting and self.on in (which, "both"):
            limit = n_batches_of_share(self.size, learn.n_batches, which)
            self._limit = limit  # also above the length, which may not be true
            if learn.n_batches is None or limit < learn.n_batches:
                learn.n_batches = limit


def n_batches_of_share(size: float, n_batches: int | None, which: str) -> int:
    """So many batches: the number itself, or a share rounded up.

    Raises:
        ValueError: a share of nobody knows how many.
    """
    if isinstance(size, int):
        return size
    if n_batches is None:
        raise ValueError(
            f"ShortEpoch({size!r}): the {which} data does not tell how many batches it has, so there is no "
            "share of it. Write a number of batches, as ShortEpoch(100)."
        )
    return max(1, math.ceil(size * n_batches - 1e-9))  # 0.1 * 30 is 3.0000000000000004


def n_batches_of(loader: Any) -> int | None:
    """Number of batches, where the loader can tell."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a generator function; a DataLoader over an iterable data set
        return None


def n_train_batches(learn: LearnerProtocol) -> int | None:
    """Batches of a training pass of a fit, where the data can tell; fewer under `ShortEpoch`."""
    n_batches = n_batches_of(learn.data.train)
    for plugin in learn.callbacks:
        if isinstance(plugin, ShortEpoch) and plugin.on in ("train", "both"):
            limit = n_batches_of_share(plugin.size, n_batches, "train")
            n_batches = limit if n_batches is None else min(limit, n_batches)
    return n_batches


class OverfitBatch(Callback):
    """Train on the first batch again and again, to see whether the model can learn it by heart.

    An epoch has as many steps as it would have; validation sees its own data. A loss that does not go to its
    smallest value says that something is wrong: the model, the loss, the targets, or the rate. What plug-ins
    of `TRANSFORM` draw at random is drawn anew each time. The batch is the first one of each fit, and is
    kept twice on its device.

    Attributes:
        first: inputs and targets that are trained on; None outside of a fit.
    """

    order = Order.PREPARE
    state = ("first",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self.first: tuple[Any, Any] | None = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.first = None

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        if self.first is None:
            self.first = copy_of((learn.inputs, learn.targets), learn.device)
        learn.inputs, learn.targets = copy_of(self.first, learn.device)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.first = None


def copy_of(nest: Any, device: torch.device) -> Any:
    """A copy of tensors on the model's device, so that what others change in place is no change of these."""
    return map_tensors(nest, lambda leaf: leaf.to(device, copy=True))


class ValidateEvery(Callback):
    """Validate in mid-epoch as well, every so many steps, and record what was measured.

    `learn.history.validations` has a row for each, with `step`, `epoch` and the results by name, those of
    the validation that ends each epoch among them; a table of the epochs stays as it is. Training goes on as
    if there had been none: random states, the data's order, modes and results are put back.
    A step that ends an epoch is validated once. A validation that Ctrl-C or SIGTERM ends is not recorded.
    Plug-ins that act on an epoch's results, as `EarlyStopping`, act at its end.

    Args:
        every: how often, as `"200 steps"`, `"1e5 samples"` or `"10 minutes"`.

    Raises:
        ValueError: the unit is epochs, which are validated anyway; or, at the fit's begin, there is no
            validation data.
    """

    order = Order.MEASURE

    def __init__(self, every: str | Every, *, name: str | None = None):
        super().__init__(name=name)
        self.every = Every(every)
        if self.every.unit == "epoch":
            raise ValueError(
                f"ValidateEvery({str(every)!r}): each epoch ends with a validation. Write steps, samples or "
                "a time, as '200 steps'."
            )

    def before_fit(self, learn: LearnerProtocol) -> None:
        if learn.data.valid is None:
            raise ValueError(
                f"ValidateEvery({str(self.every)!r}): there is no validation data. Give some, with "
                "Data(train, valid)."
            )
        self.every.start(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        ends_epoch = learn.batch_idx + 1 == learn.n_batches  # which validates at once
        if not self.every.after_batch(learn) or ends_epoch or learn.interrupted:
            return
        results = learn.validate()
        if not learn.interrupted:  # else it has seen a part of the data only
            learn.history.add_validation(learn.global_step, results)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        results = {name: value for name, value in learn.results.items() if name.startswith("valid_")}
        if results:
            learn.history.add_validation(learn.global_step, results)
