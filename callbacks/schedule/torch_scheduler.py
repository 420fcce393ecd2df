"""Change the learning rate as training goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.every import Every
from callbacks.core.warning import warn
from callbacks.core.when import windows_of
from callbacks.optim.hyperparameters import Kept, check_alone, get, settings_of
from callbacks.optim.optimizers import Optimizers
from callbacks.results.best import check_measured
from callbacks.schedule.budgets import n_train_batches
from callbacks.schedule.windows import planned
from callbacks.step.accumulation import GradientAccumulation


class Still(torch.optim.Optimizer):
    """Has the settings of another optimizer, and moves nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        groups = [{**settings_of(group), "params": [torch.zeros(1)]} for group in optimizer.param_groups]
        super().__init__(groups, dict(getattr(optimizer, "defaults", {})))

    def step(self, closure: Any = None) -> Any:
        pass


class TorchScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler`.

    Each fit starts a new schedule, and ends with the optimizer's settings as they were before it. In a `When`
    the schedule starts where the window opens, and its last rate stays where the window closes.

        TorchScheduler(partial(StepLR, step_size=3))
        TorchScheduler(partial(OneCycleLR, max_lr=0.1, total_steps=500), every="1 step")

    Args:
        scheduler: makes a scheduler of an optimizer.
        every: how often it is stepped; `"1 step"` for those that count batches.
        monitor: the result that `ReduceLROnPlateau` looks at, as `"valid_loss"`; of no use to others.

    Raises:
        TypeError: `scheduler` cannot be called, or makes something else.
        ValueError: at the fit's begin: nothing of the monitor's name is measured, or another plug-in changes
            the rate (or a momentum that this one cycles) too; in it: a `OneCycleLR` is at its end, or
            another optimizer takes the place of that which is scheduled.

    Warns:
        LearnerWarning: a `OneCycleLR`, `CosineAnnealingLR` or `PolynomialLR` is shorter than the fit, at its
            begin, or longer, at its end.
    """

    order = Order.DECIDE
    state = ("position",)

    def __init__(
        self,
        scheduler: Callable[..., Any],
        *,
        every: str | Every = "1 epoch",
        monitor: str = "valid_loss",
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not callable(scheduler):
            raise TypeError(
                f"TorchScheduler({scheduler!r}): pass what makes a scheduler of an optimizer, as "
                f"partial(torch.optim.lr_scheduler.StepLR, step_size=3)."
            )
        self.scheduler, self.every, self.monitor = scheduler, Every(every), monitor
        self._made: Any = None
        self._is_waiting = False  # for its window to open?
        self._position: dict[str, Any] | None = None
        self._kept: Kept | None = None

    @property
    def schedules(self) -> tuple[str, ...]:
        """The hyperparameters that it changes, which no other plug-in may; all are known in a fit."""
        return names_of(self._made)

    @property
    def position(self) -> dict[str, Any] | None:
        """Where the schedule is, as plain data; None outside of a fit."""
        return None if self._made is None or self._is_waiting else self._made.state_dict()

    @position.setter
    def position(self, position: dict[str, Any] | None) -> None:
        self._position = position
        if self._is_waiting and self._kept is not None and position is not None:  # the window was open
            groups = self._kept.optimizer.param_groups
            settings = [settings_of(group) for group in groups]
            self._made, self._is_waiting = self._make(self._kept), False
            for group, each in zip(groups, settings, strict=True):
                group.update(each)
        if self._made is not None and not self._is_waiting:
            self._go_to_position()

    def before_fit(self, learn: LearnerProtocol) -> None:
        if not isinstance(learn.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "TorchScheduler: torch's schedulers accept only a torch.optim.Optimizer, and this is "
                f"{type(learn.optimizer).__name__}: use ParamScheduler; or, where it holds several "
                "optimizers, pass those, Learner(optimizer=[a, b])."
            )
        self._kept = Kept(learn.optimizer, "lr", "momentum")
        # torch's schedulers change the rate when they are made: in a window not before it opens
        self._is_waiting = any(each.start for each in windows_of(self))
        self._made = self.scheduler(Still(learn.optimizer)) if self._is_waiting else self._make(self._kept)
        if not isinstance(self._made, LRScheduler):
            raise TypeError(f"TorchScheduler({self.scheduler!r}) made {self._made!r}, which is no scheduler.")
        if isinstance(self._made, ReduceLROnPlateau):
            check_measured(self.monitor, learn, "TorchScheduler")
        check_alone(self, learn)
        check_length(self, self._made, learn)
        if not self._is_waiting:
            self._go_to_position()
        self.every.start(learn)

    def _make(self, kept: Kept) -> Any:
        """Make the scheduler, and note what it sets, which is restored after the fit."""
        with kept.noting():
            made = self.scheduler(kept.optimizer)
        if isinstance(kept.optimizer, Optimizers):  # a member may be stepped alone, which torch does not see
            kept.optimizer._opt_called = True  # type: ignore[attr-defined]
        return made

    def before_train(self, learn: LearnerProtocol) -> None:
        if self._is_waiting:  # its window has opened
            self._made, self._is_waiting = self._make(self._kept or Kept(learn.optimizer)), False

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._check_optimizer(learn)
        if self.every.after_batch(learn):
            self._step(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._check_optimizer(learn)
        if self.every.after_epoch(learn):
            self._step(learn)

    def after_fit(self, learn: LearnerProtocol) -> None:
        told = length_of(self._made)
        if self._is_waiting:
            return
        if told is not None and self._made.last_epoch < told[1] - 1 and learn.stop_reason is None:
            warn(
                f"TorchScheduler: the schedule is longer than the fit: {told[0]}={told[1]}, and it was "
                f"stepped {self._made.last_epoch} times, every {self.every}."
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.put_back()
        self._kept = self._made = self._position = None
        self._is_waiting = False

    def values(self, optimizer: Any, n_epochs: int, n_batches: int) -> dict[str, list[list[float]]]:
        """What would be set over a fit: by name, for each parameter group the values by batch.

        Raises:
            ValueError: it depends on results, samples or time.
        """
        still = Still(optimizer)
        made = self.scheduler(still)
        if isinstance(made, ReduceLROnPlateau) or self.every.unit not in ("step", "epoch"):
            raise ValueError(f"TorchScheduler({self.scheduler!r}): its rates cannot be foreseen.")
        found: dict[str, list[list[float]]] = {
            name: [[] for _ in still.param_groups] for name in names_of(made)
        }
        length = int(self.every.number) * (1 if self.every.unit == "step" else n_batches)
        for batch in range(n_epochs * n_batches):
            for name, series in found.items():
                for group, values in zip(still.param_groups, series, strict=True):
                    values.append(float(get(group, name)))
            still.step()
            if (batch + 1) % length == 0 and batch + 1 < n_epochs * n_batches:
                made.step()
        return found

    def _step(self, learn: LearnerProtocol) -> None:
        if isinstance(self._made, ReduceLROnPlateau):
            if self.monitor in learn.results:
                self._made.step(learn.results[self.monitor])
            return
        try:
            with nullcontext() if self._kept is None else self._kept.noting():
                self._made.step()
        except ValueError as error:
            if "total steps" not in str(error):
                raise
            raise ValueError(
                f"TorchScheduler: the schedule is shorter than the fit, which has {learn.n_epochs} epochs, "
                f"with a step every {self.every}. (torch: {error}.) Write a larger total_steps, or end the "
                "fit before, as with StopAfter('500 steps')."
            ) from error

    def _check_optimizer(self, learn: LearnerProtocol) -> None:
        """Refuse to schedule an optimizer that is no longer used."""
        if self._made is None or self._is_waiting:
            return
        if self._made.optimizer is not learn.optimizer:
            raise ValueError(
                f"TorchScheduler: learn.optimizer was replaced by another {type(learn.optimizer).__name__} "
                f"in epoch {learn.epoch}, and a scheduler of torch belongs to the optimizer that it was made "
                "for. Replace it between two fits; or use ParamScheduler, which goes over to the new "
                "one, with relative=True in shares of its own rate."
            )

    def _go_to_position(self) -> None:
        """Take up a schedule where a snapshot left it."""
        if self._position is not None:
            self._made.load_state_dict(self._position)
            # updates were made before the snapshot: else torch would warn of a rate changed before the first
            self._made.optimizer._opt_called = True
            for group, rate in zip(self._made.optimizer.param_groups, self._made.get_last_lr(), strict=True):
                group["lr"] = rate
            self._position = None


def names_of(made: Any) -> tuple[str, ...]:
    """The hyperparameters that a scheduler of torch changes; before it is made, the rate at least."""
    return ("lr", "momentum") if getattr(made, "cycle_momentum", False) else ("lr",)


def length_of(made: Any) -> tuple[str, int] | None:
    """How long a schedule is that was made for the whole of a fit: the argument that tells, and its value."""
    names = {OneCycleLR: "total_steps", CosineAnnealingLR: "T_max", PolynomialLR: "total_iters"}
    name = names.get(type(made))
    return None if name is None else (name, int(getattr(made, name)))


def adds_up(learn: LearnerProtocol) -> bool:
    """Do gradients of several batches add up to one update?"""
    return any(isinstance(each, GradientAccumulation) for each in learn.callbacks)


def check_length(plugin: TorchScheduler, made: Any, learn: LearnerProtocol) -> None:
    """Tell of a schedule that is shorter than the fit; one that is longer is told of after it.

    Raises:
        ValueError: torch would end the fit with an error, in the epoch where the schedule ends.
    """
    told, every = length_of(made), plugin.every
    n_batches = n_train_batches(learn)
    if told is None or every.unit not in ("epoch", "step"):
        return
    is_by_epoch, is_known = every.unit == "epoch", n_batches is not None and not adds_up(learn)
    if not (is_by_epoch or is_known):  # then nobody knows how many updates there will be
        return
    plan = planned(plugin, learn, learn.n_epochs, n_batches or 1, one_step_each=is_known)
    if plan is None:
        return
    length = (min(plan.end, plan.end_of_fit) - plan.begin) // ((n_batches or 1) if is_by_epoch else 1)
    n_steps = length // int(every.number)
    if told[1] >= n_steps - (not isinstance(made, OneCycleLR)):  # the last step needs no other after it
        return
    words = (
        f"TorchScheduler: the schedule is shorter than the fit: {told[0]}={told[1]}, and it will be stepped "
        f"{n_steps} times, every {every}. Write {told[0]}={n_steps}"
    )
    if isinstance(made, OneCycleLR) and every.unit == "epoch":
        raise ValueError(f"{words}, or train for {told[1] * int(every.number)} epochs.")
    cure = ", unless gradients add up over several batches." if every.unit == "step" else "."
    warn(words + cure)
