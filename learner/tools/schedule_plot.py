"""The values of a hyperparameter during a fit, drawn before it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from callbacks.core.contract import Callback
from callbacks.core.registry import describe
from callbacks.history.drawing import add_legend, line_style, new_axes
from callbacks.optim.hyperparameters import get
from callbacks.schedule.budgets import n_train_batches
from callbacks.schedule.param_scheduler import ParamScheduler
from callbacks.schedule.torch_scheduler import TorchScheduler, adds_up
from callbacks.schedule.windows import Plan, batches_together, planned
from learner.engine.composition import as_list
from learner.messages.arguments import check_n_epochs
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: When a schedule runs, and its values for each parameter group by batch.
Planned = tuple[Plan, list[list[float]]]


@suggest_keywords
def plot_schedule(
    learn: FullLearner, n_epochs: int, name: str = "lr", *, callbacks: Any = (), ax: Axes | None = None
) -> Axes:
    """Draw the values that a hyperparameter will have during a fit, for each parameter group.

    Args:
        learn: the learner.
        n_epochs: the number of epochs of the fit.
        name: the hyperparameter.
        callbacks: callbacks that the fit will have in addition.
        ax: where to draw; by default a new figure of 6 x 4 inches.

    Returns:
        The axes; `.figure.savefig(path)` saves the plot.

    Raises:
        TypeError, ValueError: an argument cannot be used, no `ParamScheduler` or `TorchScheduler` changes the
            hyperparameter, or its values depend on results, samples or time.
    """
    with learn.added(*as_list(callbacks, "callbacks")):
        series = values_of(learn, n_epochs, name)
    ax = ax or new_axes(6, 4)
    for number, values in enumerate(series):
        epochs = [n_epochs * step / len(values) for step in range(len(values))]
        ax.plot(epochs, values, label=f"group {number}", **line_style(number))
    ax.set(xlabel="epoch", ylabel=name, title=f"Planned {name} over {n_epochs} epochs")
    if len(series) > 1:
        add_legend(ax)
    return ax


def values_of(learn: FullLearner, n_epochs: int, name: str) -> list[list[float]]:
    """The values of each parameter group, one per batch."""
    check_n_epochs(n_epochs)
    plans = [plan_of(each, learn, n_epochs, name) for each in learn.callbacks if name in may_change(each)]
    there = [plan for plan in plans if plan is not None]
    if not there:
        names = sorted({name for each in learn.callbacks for name in may_change(each)})
        scheduled = f" Available: {', '.join(names)}." if names else ""
        raise ValueError(
            f"plot_schedule: no callback schedules {name!r}.{scheduled} Add one, such as "
            f"ParamScheduler({{{name!r}: ...}}) or TorchScheduler(...), or pass it as callbacks=[...]."
        )
    return joined(learn, name, there)


def may_change(callback: Callback) -> list[str]:
    """What a scheduler may change; for a torch scheduler it is known only once the scheduler is made."""
    if isinstance(callback, TorchScheduler):
        return ["lr", "momentum"]
    return list(callback.schedules) if isinstance(callback, ParamScheduler) else []


def plan_of(schedule: Any, learn: FullLearner, n_epochs: int, name: str) -> Planned | None:
    """When a schedule of this hyperparameter runs, and its values by group; None if it does not change it."""
    adds = adds_up(learn)
    if isinstance(schedule, TorchScheduler) and schedule.every.unit == "step" and adds:
        raise ValueError(
            f"plot_schedule: {describe(schedule)} counts updates, which are fewer than batches with "
            "GradientAccumulation, so its values are not known in advance. Plot it without "
            "GradientAccumulation."
        )
    n_batches = getattr(schedule, "n_batches", None) or n_train_batches(learn)
    if n_batches is None:
        raise ValueError(
            "plot_schedule: the loader has no length, so the batches of an epoch are not known. Use a "
            "loader with a length, or ParamScheduler(..., n_batches=...)."
        )
    plan = planned(schedule, learn, n_epochs, n_batches, one_step_each=not adds)
    if plan is None or (plan.begin and isinstance(schedule, TorchScheduler)):
        raise ValueError(
            f"plot_schedule: when {schedule!r} runs is not known in advance, because of its window or a "
            "budget. Write both in epochs or steps, or plot it without them."
        )
    if isinstance(schedule, TorchScheduler):
        series = schedule.values(learn.optimizer, n_epochs, n_batches)
    else:
        series = by_batch(schedule, learn, plan.end - plan.begin)
    return (plan, series[name]) if series.get(name) else None


def by_batch(schedule: ParamScheduler, learn: FullLearner, length: int) -> dict[str, list[list[float]]]:
    """The values of this many batches; those of an update have the same value."""
    n_together = batches_together(learn.callbacks, getattr(learn.data.train, "batch_size", None))
    found = schedule.values(learn.optimizer, 1, math.ceil(length / n_together))
    return {
        name: [[series[batch // n_together] for batch in range(length)] for series in groups]
        for name, groups in found.items()
    }


def joined(learn: FullLearner, name: str, plans: list[Planned]) -> list[list[float]]:
    """The values of each group over the fit; constant before and after a schedule."""
    length = plans[0][0].end_of_fit
    found = []
    for number, group in enumerate(learn.optimizer.param_groups):
        values = [float(get(group, name))] * length
        for plan, series in sorted(plans, key=lambda each: each[0].begin):
            part = series[number][: min(plan.end, length) - plan.begin]
            if part:
                values[plan.begin :] = part + part[-1:] * (length - plan.begin - len(part))
        found.append(values)
    return found
