"""Let Optuna end a trial that is not promising."""

from __future__ import annotations

from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.missing_names import import_extra
from callbacks.results.best import check_measured


class OptunaPruning(Callback):
    """Report a result to an Optuna trial each epoch, and end the fit when Optuna's pruner decides so.

    The fit is stopped by `learn.stop`, so the epoch is logged and saved. Then `fit` raises
    `optuna.TrialPruned`. Do not catch this exception in the objective: `study.optimize` catches it, and marks
    the trial as pruned.

    Epochs are reported as steps 0, 1, ... over all fits with this callback. Create one for each trial.

    Args:
        trial: the argument that `study.optimize` passes to the objective, or `study.ask()`.
        monitor: name of the result, such as `"valid_loss"`. Nothing is reported for an epoch that lacks it.

    Attributes:
        n_epochs: epochs so far, over all fits.
        verdict: why the trial is pruned, in words; None if it is not.

    Raises:
        ImportError: the package `optuna` is missing.
        TypeError: `trial` is not a trial.
        ValueError: before the first epoch: no result has that name, the study's direction differs from the
            result's, or the study has several objectives, which Optuna does not prune.
        optuna.TrialPruned: at the end of the fit, the trial is pruned.
    """

    order = Order.DECIDE
    acts_outside = True
    state = ("n_epochs", "verdict")

    def __init__(self, trial: Any, monitor: str = "valid_loss", *, name: str | None = None):
        super().__init__(name=name)
        import_extra("optuna", "OptunaPruning")
        if not (callable(getattr(trial, "report", None)) and callable(getattr(trial, "should_prune", None))):
            raise TypeError(
                f"OptunaPruning(trial={trial!r}): pass the trial that study.optimize passes to the objective."
            )
        self.trial, self.monitor = trial, monitor
        self.n_epochs = 0
        self.verdict: str | None = None

    @property
    def monitors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The result that is monitored."""
        return (self.monitor,)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.verdict = None
        check_measured(self.monitor, learn, "OptunaPruning")
        check_study(getattr(self.trial, "study", None), self.monitor, learn.measured[self.monitor])

    def after_epoch(self, learn: LearnerProtocol) -> None:
        step = self.n_epochs
        self.n_epochs += 1
        if self.monitor not in learn.results:
            return
        value = learn.results[self.monitor]
        if not isinstance(value, (int, float)):
            raise ValueError(
                f"OptunaPruning(monitor={self.monitor!r}): the result is {value!r}, not a number."
            )
        self.trial.report(value, step)
        if self.trial.should_prune():
            self.verdict = f"Optuna prunes the trial: {self.monitor} is {value:g} after {step + 1} epochs"
            learn.stop(self.verdict)

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.verdict is not None:
            from optuna import TrialPruned

            raise TrialPruned(self.verdict)


def check_study(study: Any, monitor: str, direction: str | None) -> None:
    """Refuse a study with the opposite direction, or with several objectives."""
    if study is None:  # a FixedTrial has no study
        return
    if len(study.directions) > 1:
        raise ValueError(
            f"OptunaPruning: the study {study.study_name!r} has {len(study.directions)} objectives, and "
            "Optuna prunes only studies with one. Remove OptunaPruning."
        )
    wanted = {"MINIMIZE": "min", "MAXIMIZE": "max"}.get(study.direction.name)
    if direction is not None and wanted is not None and wanted != direction:
        better = {"min": "minimize", "max": "maximize"}[direction]
        raise ValueError(
            f"OptunaPruning(monitor={monitor!r}): its direction is {direction!r}, but the study is set to "
            f"{study.direction.name.lower()}. Use create_study(direction={better!r}), or monitor the result "
            "that the study optimizes."
        )
