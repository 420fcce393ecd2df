"""Schedule the learning rate with torch's own schedulers."""

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
from callbacks.schedule.changed_arguments import check_unchanged
from callbacks.schedule.windows import planned


class Inert(torch.optim.Optimizer):
    """An optimizer with the settings of another one, which updates nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        groups = [{**settings_of(group), "params": [torch.zeros(1)]} for group in optimizer.param_groups]
        super().__init__(groups, dict(getattr(optimizer, "defaults", {})))

    def step(self, closure: Any = None) -> Any:
        pass


class TorchScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler`.

    Each fit starts a new schedule, and restores the optimizer's settings when it ends. In a `When` the
    schedule starts when the window opens, and its last rate stays when the window closes.

        TorchScheduler(partial(StepLR, step_size=3))
        TorchScheduler(partial(OneCycleLR, max_lr=0.1, total_steps=500), every="1 step")

    Args:
        scheduler: a function that makes a scheduler from an optimizer.
        every: how often the scheduler steps; `"1 step"` for schedulers that count batches.
        monitor: the result that `ReduceLROnPlateau` uses, such as `"valid_loss"`; other schedulers ignore it.

    Raises:
        TypeError: `scheduler` is not callable, or does not return a scheduler.
        ValueError: when the fit starts: no result has the monitor's name, or another callback changes the
            rate (or a momentum that this one cycles) too; during the fit: a `OneCycleLR` is at its end, or
            the scheduled optimizer was replaced.

    Warns:
        LearnerWarning: a `OneCycleLR`, `CosineAnnealingLR` or `PolynomialLR` is shorter than the fit, when
            the fit starts, or longer, when it ends; a `ReduceLROnPlateau` has the mode `"min"` for a result
            that is better when it is higher, or the reverse.
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
                f"TorchScheduler({scheduler!r}): pass a function of an optimizer that makes a scheduler, "
                f"such as partial(torch.optim.lr_scheduler.StepLR, step_size=3)."
            )
        self.scheduler, self.every, self.monitor = scheduler, Every(every), monitor
        self._made: Any = None
        self._is_waiting = False  # until its window opens
        self._position: dict[str, Any] | None = None
        self._kept: Kept | None = None

    @property
    def sets_hyperparameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The hyperparameters that it changes; no other callback may change them."""
        return names_of(self._made)

    @property
    def position(self) -> dict[str, Any] | None:
        """The state of the schedule as plain data; None outside a fit."""
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

    @property
    def monitors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The result that is monitored, by a `ReduceLROnPlateau` in a fit."""
        return (self.monitor,) if isinstance(self._made, ReduceLROnPlateau) else ()

    def before_fit(self, learn: LearnerProtocol) -> None:
        if not isinstance(learn.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "TorchScheduler: torch's schedulers accept only a torch.optim.Optimizer, and this is "
                f"{type(learn.optimizer).__name__}. Use ParamScheduler; or, if it combines several "
                "optimizers, pass these: Learner(optimizer=[a, b])."
            )
        self._kept = Kept(learn.optimizer, "lr", "momentum")
        # torch's schedulers change the rate when they are made, so in a window they are made when it opens
        self._is_waiting = any(each.start for each in windows_of(self))
        self._made = self.scheduler(Inert(learn.optimizer)) if self._is_waiting else self._make(self._kept)
        if not isinstance(self._made, LRScheduler):
            raise TypeError(f"TorchScheduler({self.scheduler!r}) made {self._made!r}, not a scheduler.")
        if isinstance(self._made, ReduceLROnPlateau):
            check_measured(self.monitor, learn, "TorchScheduler")
            check_mode(self._made.mode, self.monitor, learn)
        check_alone(self, learn)
        check_length(self, self._made, learn)
        if not self._is_waiting:
            self._go_to_position()
        self.every.start(learn)

    def _make(self, kept: Kept) -> Any:
        """Make the scheduler, and note the settings that it changes, which are restored after the fit."""
        with kept.noting():
            made = self.scheduler(kept.optimizer)
        if isinstance(kept.optimizer, Optimizers):  # a member may step alone, unnoticed by torch
            kept.optimizer._opt_called = True  # type: ignore[attr-defined]
        return made

    def before_train(self, learn: LearnerProtocol) -> None:
        if self._is_waiting:  # its window has opened
            self._made, self._is_waiting = self._make(self._kept or Kept(learn.optimizer)), False

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._check_optimizer(learn)
        if self.every.after_batch(learn):
            self._step(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        if self.every.after_train(learn):  # accumulated gradients have made an update
            self._step(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._check_optimizer(learn)
        if self.every.after_epoch(learn):
            self._step(learn)

    def after_fit(self, learn: LearnerProtocol) -> None:
        length = length_of(self._made)
        if self._is_waiting:
            return
        if length is not None and self._made.last_epoch < length[1] - 1 and learn.stop_reason is None:
            warn(
                f"TorchScheduler: the schedule is longer than the fit: {length[0]}={length[1]}, and it was "
                f"stepped {self._made.last_epoch} {'time' if self._made.last_epoch == 1 else 'times'}, "
                f"every {self.every}."
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.restore()
        self._kept = self._made = self._position = None
        self._is_waiting = False

    def values(self, optimizer: Any, n_epochs: int, n_batches: int) -> dict[str, list[list[float]]]:
        """The values that a fit would set: for each name and parameter group, one per batch.

        Raises:
            ValueError: they depend on results, samples or time.
        """
        inert = Inert(optimizer)
        made = self.scheduler(inert)
        if isinstance(made, ReduceLROnPlateau) or self.every.unit not in ("step", "epoch"):
            raise ValueError(f"TorchScheduler({self.scheduler!r}): its rates are not known in advance.")
        found: dict[str, list[list[float]]] = {
            name: [[] for _ in inert.param_groups] for name in names_of(made)
        }
        length = int(self.every.number) * (1 if self.every.unit == "step" else n_batches)
        for batch in range(n_epochs * n_batches):
            for name, series in found.items():
                for group, values in zip(inert.param_groups, series, strict=True):
                    values.append(float(get(group, name)))
            inert.step()
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
                f"TorchScheduler: the schedule is shorter than the fit, which has {learn.n_epochs} "
                f"epochs, with a step every {self.every}. (torch: {error}.) Use a larger total_steps, or "
                "end the fit earlier, as with StopAfter('500 steps')."
            ) from error

    def _check_optimizer(self, learn: LearnerProtocol) -> None:
        """Raise an error if the scheduled optimizer was replaced."""
        if self._made is None or self._is_waiting:
            return
        if self._made.optimizer is not learn.optimizer:
            raise ValueError(
                "TorchScheduler: learn.optimizer was replaced by another "
                f"{type(learn.optimizer).__name__} in epoch {learn.epoch}, but a scheduler of torch "
                "belongs to the optimizer that it was made for. Replace it between two fits, or use "
                "ParamScheduler, which continues with the new one (with relative=True, relative to its "
                "own rate)."
            )

    def _go_to_position(self) -> None:
        """Continue a schedule from a snapshot."""
        if self._position is not None:
            check_unchanged(self._made, self._position)
            self._made.load_state_dict(self._position)
            # there were updates before the snapshot; without this line torch warns that there were none
            self._made.optimizer._opt_called = True
            for group, rate in zip(self._made.optimizer.param_groups, self._made.get_last_lr(), strict=True):
                group["lr"] = rate
            self._position = None


def names_of(made: Any) -> tuple[str, ...]:
    """The hyperparameters that a scheduler of torch changes; before it is made, only the rate is known."""
    return ("lr", "momentum") if getattr(made, "cycle_momentum", False) else ("lr",)


def check_mode(mode: str, monitor: str, learn: LearnerProtocol) -> None:
    """Warn of a mode that contradicts the better direction of a result."""
    known = learn.measured[monitor]
    if known not in (None, mode):
        warn(
            f"TorchScheduler: ReduceLROnPlateau has mode={mode!r}, but {monitor} improves in the "
            f"direction {known!r}, so the rate would fall while the model improves. Use "
            f"partial(ReduceLROnPlateau, mode={known!r})."
        )


def length_of(made: Any) -> tuple[str, int] | None:
    """The argument with the length of a schedule that is made for a whole fit, and its value."""
    names = {OneCycleLR: "total_steps", CosineAnnealingLR: "T_max", PolynomialLR: "total_iters"}
    name = names.get(type(made))
    return None if name is None else (name, int(getattr(made, name)))


def adds_up(learn: LearnerProtocol) -> bool:
    """Does an update accumulate gradients of several batches?"""
    return any(each.accumulates_gradients for each in learn.callbacks)


def check_length(scheduler: TorchScheduler, made: Any, learn: LearnerProtocol) -> None:
    """Warn of a schedule that is shorter than the fit; `after_fit` warns of a longer one."""
    found, every = length_of(made), scheduler.every
    n_batches = n_train_batches(learn)
    if found is None or every.unit not in ("epoch", "step"):
        return
    name, given = found
    is_by_epoch, is_known = every.unit == "epoch", n_batches is not None and not adds_up(learn)
    if not (is_by_epoch or is_known):  # the number of updates is not known
        return
    plan = planned(scheduler, learn, learn.n_epochs, n_batches or 1, one_step_each=is_known)
    if plan is None:
        return
    length = (min(plan.end, plan.end_of_fit) - plan.begin) // ((n_batches or 1) if is_by_epoch else 1)
    n_steps = length // int(every.number)
    if given >= n_steps - (not isinstance(made, OneCycleLR)):  # after the last step no other follows
        return
    words = (
        f"TorchScheduler: the schedule is shorter than the fit: {name}={given}, and it will be stepped "
        f"{n_steps} times, every {every}. Use {name}={n_steps}"
    )
    if isinstance(made, OneCycleLR) and every.unit == "epoch":
        raise ValueError(f"{words}, or train for {given * int(every.number)} epochs.")
    warn(
        words + (", unless gradients are accumulated over several batches." if every.unit == "step" else ".")
    )
