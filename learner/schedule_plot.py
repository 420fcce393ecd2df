"""What a hyperparameter will be over a fit, drawn before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callbacks.param_scheduler import ParamScheduler
from callbacks.schedule import TorchScheduler
from learner.arguments import check_n_epochs
from learner.loaders import n_batches_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def values_of(learn: Any, n_epochs: int, name: str) -> list[list[float]]:
    """For each parameter group the values by batch.

    Raises:
        ValueError: no plug-in schedules it, or its values cannot be foreseen.
    """
    check_n_epochs(n_epochs)
    found = [
        each
        for each in learn.callbacks
        if isinstance(each, (ParamScheduler, TorchScheduler)) and name in each.schedules
    ]
    if not found:
        raise ValueError(
            f"plot_schedule: no plug-in schedules {name!r}. Add one, as ParamScheduler({{{name!r}: ...}}) or "
            "TorchScheduler(...), or pass it as callbacks=[...]."
        )
    n_batches = getattr(found[0], "n_batches", None) or n_batches_of(learn.data.train)
    if n_batches is None:
        raise ValueError("plot_schedule: the loader does not know how many batches an epoch has.")
    return found[0].values(learn.optimizer, n_epochs, n_batches)[name]


def plot(learn: Any, n_epochs: int, name: str, ax: Axes | None) -> Axes:
    """Draw the values of all groups over the epochs."""
    series = values_of(learn, n_epochs, name)
    from callbacks.drawing import new_axes

    ax = ax or new_axes(6, 4)
    for number, values in enumerate(series):
        epochs = [n_epochs * step / len(values) for step in range(len(values))]
        ax.plot(epochs, values, label=f"group {number}")
    ax.set(xlabel="epoch", ylabel=name)
    if len(series) > 1:
        ax.legend()
    return ax
