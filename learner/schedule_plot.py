"""What a hyperparameter will be over a fit, drawn before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callbacks.budgets import n_train_batches
from callbacks.param_scheduler import ParamScheduler
from callbacks.registry import describe
from callbacks.schedule import TorchScheduler, adds_up
from callbacks.when import When, unwrapped
from learner.arguments import check_n_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def values_of(learn: Any, n_epochs: int, name: str) -> list[list[float]]:
    """For each parameter group the values by batch.

    Raises:
        ValueError: no plug-in schedules it, or its values cannot be foreseen.
    """
    check_n_epochs(n_epochs)
    there: dict[str, list[list[float]]] = {}
    for each in learn.callbacks:
        if name in may_change(unwrapped(each)):
            there |= plan_of(each, learn, n_epochs)
    if name not in there:
        names = sorted({each for plugin in learn.callbacks for each in may_change(unwrapped(plugin))})
        scheduled = f" Scheduled are: {', '.join(names)}." if names else ""
        raise ValueError(
            f"plot_schedule: no plug-in schedules {name!r}.{scheduled} Add one, as "
            f"ParamScheduler({{{name!r}: ...}}) or TorchScheduler(...), or pass it as callbacks=[...]."
        )
    return there[name]


def may_change(plugin: Any) -> list[str]:
    """What a scheduler may change; of one of torch's it is known once it is made."""
    if isinstance(plugin, TorchScheduler):
        return ["lr", "momentum"]
    return list(plugin.schedules) if isinstance(plugin, ParamScheduler) else []


def plan_of(plugin: Any, learn: Any, n_epochs: int) -> dict[str, list[list[float]]]:
    """By name, for each parameter group the values by batch.

    Raises:
        ValueError: they cannot be foreseen.
    """
    if isinstance(plugin, When):
        raise ValueError(
            f"plot_schedule: {describe(plugin.plugin)} is heard for a part of the fit only, by {plugin!r}, "
            "so its values cannot be foreseen. Plot it without the When."
        )
    if isinstance(plugin, TorchScheduler) and plugin.every.unit == "step" and adds_up(learn):
        raise ValueError(
            f"plot_schedule: {describe(plugin)} goes by updates, of which GradientAccumulation makes fewer "
            "than there are batches, so its values cannot be foreseen. Plot it without GradientAccumulation."
        )
    n_batches = getattr(plugin, "n_batches", None) or n_train_batches(learn)
    if n_batches is None:
        raise ValueError(
            "plot_schedule: the loader does not know how many batches an epoch has. Give it a length, or "
            "pass ParamScheduler(..., n_batches=...)."
        )
    return plugin.values(learn.optimizer, n_epochs, n_batches)


def plot(learn: Any, n_epochs: int, name: str, ax: Axes | None) -> Axes:
    """Draw the values of all groups over the epochs."""
    series = values_of(learn, n_epochs, name)
    from callbacks.parts.drawing import new_axes

    ax = ax or new_axes(6, 4)
    for number, values in enumerate(series):
        epochs = [n_epochs * step / len(values) for step in range(len(values))]
        ax.plot(epochs, values, label=f"group {number}")
    ax.set(xlabel="epoch", ylabel=name)
    if len(series) > 1:
        ax.legend()
    return ax
