"""Schedule hyperparameters as functions of progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.settings import check_count
from callbacks.core.warning import warn
from callbacks.optim import hyperparameters
from callbacks.schedule import annealers
from callbacks.schedule.annealers import Annealer
from callbacks.schedule.windows import Clock, Span, batches_per_update

Value = Callable[[float], float]
ANNEALERS = tuple(getattr(annealers, name) for name in annealers.__all__)


class ParamScheduler(Callback):
    """Set hyperparameters before each training batch, as functions of the progress of the fit.

        ParamScheduler({"lr": one_cycle(0.004, 0.1, 1e-6), "momentum": one_cycle(0.95, 0.85, 0.95)})
        ParamScheduler({"lr": flat_cos(1.0)}, relative=True)

    Progress is 0 at the first batch of the fit and 1 at its last. With `GradientAccumulation` all batches of
    an update have the same progress, so a schedule is that of the large batches. With a budget of steps,
    samples or epochs (`StopAfter`) it is 1 when the budget is used up. In a `When` it is 0 when `start` opens
    the window and 1 when `until` closes it; afterwards, the last value stays. If a loader yields more or
    fewer batches than its length, progress follows the real number as soon as that is known. At the end of a
    fit the optimizer's settings are restored. Each fit starts a new schedule; a resumed fit continues its
    schedule.

    Args:
        schedules: by the name of a hyperparameter, a function of progress, such as those in
            `callbacks.annealers`, or a list of functions, one for each parameter group. The name is a key of
            the optimizer's groups: `"lr"`, `"weight_decay"`; `"momentum"` is the first beta of Adam and its
            variants.
        relative: multiply the values by each group's setting at the start of the fit, so that groups keep
            their ratios; if the optimizer is replaced during a fit, by the settings of the new one.
        n_batches: the number of batches per epoch, if the loader has no length.

    Raises:
        TypeError, ValueError: a schedule is not a function; when the fit starts: the optimizer has no such
            hyperparameter or another number of groups, a value is not finite, or another callback changes the
            same hyperparameter; at its first batch: the number of batches is not known, and no window or
            budget in steps or samples ends the schedule.
    """

    order = Order.DECIDE
    state = ("begun", "n_together")

    def __init__(
        self,
        schedules: Mapping[str, Value | Sequence[Value]],
        *,
        relative: bool = False,
        n_batches: int | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.schedules = check_schedules(schedules)
        if n_batches is not None:
            check_count("ParamScheduler", "n_batches", n_batches, 1)
        self.relative, self.n_batches = relative, n_batches
        self._kept: hyperparameters.Kept | None = None
        self._has_warned = self._is_sized = False
        self.begun: Clock | None = None  # the clock when the schedule started
        self.n_together: int | None = None  # batches of an update, as the first batch showed it
        self._span: Span | None = None

    @property
    def sets_hyperparameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The hyperparameters that have a schedule."""
        return tuple(self.schedules)

    def before_fit(self, learn: LearnerProtocol) -> None:
        hyperparameters.check_alone(self, learn)
        check_optimizer(self, learn.optimizer)
        self._kept, self._has_warned = hyperparameters.Kept(learn.optimizer, *self.schedules), False
        self.begun = self.n_together = self._span = None

    def before_train(self, learn: LearnerProtocol) -> None:
        self._is_sized = learn.n_batches is not None

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        n_batches = self.n_batches or learn.n_batches
        if n_batches is None and self._is_sized:  # the loader yields more than its length
            n_batches = learn.batch_idx + 1
        self.n_together = self.n_together or batches_per_update(learn)
        self._span = self._span or Span(self, learn, self.n_together)
        if n_batches is None and not self._span.counted:
            raise ValueError(
                "ParamScheduler: the loader has no length, so the batches of an epoch are not known. Pass "
                "ParamScheduler(..., n_batches=...), use a loader with a length, or end the fit after "
                "some steps, with StopAfter('1000 steps')."
            )
        kept, groups = self._kept, learn.optimizer.param_groups
        if kept is not None and (kept.optimizer is not learn.optimizer or len(groups) > len(kept.groups)):
            self._kept = kept.of(learn.optimizer)
        self._put(groups, *self._progress(learn, n_batches))

    def _progress(self, learn: LearnerProtocol, n_batches: int | None) -> tuple[float, int]:
        """The progress at this batch, and the number of steps of the schedule."""
        assert self._span is not None
        if self._span.is_whole_fit and n_batches is not None:
            n_steps = learn.n_epochs * self._span.n_steps(n_batches)
            return self._span.clock(learn, n_batches)["epoch"] / max(n_steps - 1, 1), n_steps
        if self.begun is None:
            self.begun = self._span.clock(learn, n_batches or 1)
            if not self._span.starts_late:
                self.begun["epoch"] = 0
        return self._span.progress(learn, self.begun, n_batches)

    def after_train(self, learn: LearnerProtocol) -> None:
        n_done = learn.batch_idx + 1
        if self.n_batches not in (None, n_done) and not (learn.stop_reason or self._has_warned):
            self._has_warned = True
            words = "shorter" if n_done > self.n_batches else "longer"
            warn(
                f"ParamScheduler(n_batches={self.n_batches}): epoch {learn.epoch} had {n_done} training "
                f"batches, so the schedule is {words} than the fit. Use n_batches={n_done}."
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.restore()
        self._kept = self._span = None

    def values(self, optimizer: Any, n_epochs: int, n_batches: int) -> dict[str, list[list[float]]]:
        """The values that a fit would set: for each name and parameter group, one per batch."""
        n_steps = n_epochs * n_batches
        found: dict[str, list[list[float]]] = {}
        for name, given in self.schedules.items():
            for position, group in enumerate(optimizer.param_groups):
                function, base = of_group(given, position), self._base(group, position, name)
                series = [value_at(function, step / max(n_steps - 1, 1), n_steps) for step in range(n_steps)]
                found.setdefault(name, []).append([base * value for value in series])
        return found

    def __repr__(self) -> str:
        settings = [f"relative={self.relative}"] if self.relative else []
        settings += [f"n_batches={self.n_batches}"] if self.n_batches is not None else []
        return f"ParamScheduler({', '.join([repr(self.schedules), *settings])})"

    def _put(self, groups: list[dict[str, Any]], progress: float, n_steps: int) -> None:
        for name, given in self.schedules.items():
            if isinstance(given, Sequence) or self.relative:
                for position, group in enumerate(groups):
                    value = value_at(of_group(given, position), progress, n_steps)
                    hyperparameters.put(group, name, self._base(group, position, name) * value)
            else:
                value = value_at(given, progress, n_steps)
                for group in groups:
                    hyperparameters.put(group, name, value)

    def _base(self, group: dict[str, Any], position: int, name: str) -> float:
        """The factor of relative values: the group's value at the start of the fit, or when it was added."""
        if not self.relative:
            return 1.0
        kept = [] if self._kept is None else self._kept.groups
        return float(hyperparameters.get(kept[position] if position < len(kept) else group, name))


def value_at(function: Value, progress: float, n_steps: int) -> float:
    """The value of a schedule; an `Annealer` gets the number of steps too."""
    value = function(progress, n_steps) if isinstance(function, Annealer) else function(progress)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"ParamScheduler: {function!r} returns {value!r} at progress {progress!r}: return a finite "
            "number."
        )
    return float(value)


def of_group(given: Value | Sequence[Value], position: int) -> Value:
    """The schedule of a parameter group; a group that was added during the fit has the last one's."""
    return given[min(position, len(given) - 1)] if isinstance(given, Sequence) else given


def check_schedules(schedules: Any) -> dict[str, Any]:
    """The schedules by name."""
    if not isinstance(schedules, Mapping) or not schedules:
        raise TypeError(
            f"ParamScheduler({schedules!r}): pass functions of progress by name, as in {{'lr': cos(0.1, 0)}}."
        )
    for name, given in schedules.items():
        functions = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if not functions or not all(map(callable, functions)):
            raise TypeError(
                f"ParamScheduler: {name!r} is {given!r}: pass a function of progress, such as cos(0.1, 0) or "
                "constant(0.1) of callbacks.annealers, or a list of them, one for each parameter group."
            )
    return {name: list(given) if isinstance(given, Sequence) else given for name, given in schedules.items()}


def check_optimizer(scheduler: ParamScheduler, optimizer: Any) -> None:
    """Refuse schedules that do not fit the optimizer."""
    groups = optimizer.param_groups
    for name, given in scheduler.schedules.items():
        for group in groups:
            known = hyperparameters.names_of(group)
            if name not in known:
                meant = {"wd": "weight_decay", "mom": "momentum", "learning_rate": "lr"}.get(name)
                close = [meant] if meant in known else get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]!r}? " if close else ""
                raise ValueError(
                    f"ParamScheduler: {type(optimizer).__name__} has no {name!r}. {hint}It has: "
                    f"{', '.join(known)}."
                )
        if isinstance(given, Sequence) and len(given) != len(groups):
            raise ValueError(
                f"ParamScheduler: {name!r} has {len(given)} schedules, and the optimizer has {len(groups)} "
                "parameter groups. Pass one for each group, or one function for all."
            )
        for function in given if isinstance(given, Sequence) else [given]:
            check_values(name, function)


def check_values(name: str, function: Value) -> None:
    """Refuse functions that return a rate below 0, or not a finite number, at some points of the fit."""
    if isinstance(function, type) or function in ANNEALERS:
        title = getattr(function, "__name__", "")
        raise TypeError(
            f"ParamScheduler: {name!r} is {title} itself: call it with its values, as in cos(0.1, 0.0)."
        )
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = value_at(function, progress, 1000)
        if name == "lr" and value < 0:
            raise ValueError(
                f"ParamScheduler: {name!r} is {value!r} at progress {progress}, by {function!r}. It must be "
                "a number of at least 0."
            )
