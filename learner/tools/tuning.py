"""Layer groups to freeze, and the search for a learning rate and a batch size: methods of every Learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from learner.engine import groups
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner
from learner.tools import batch_size, schedule_plot
from learner.tools.lr_find import LRSearch, search

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        The axes; `.figure.savefig(path)` saves the picture.

    Raises:
        ValueError: no `ParamScheduler` or `TorchScheduler` changes it, or its values are unknown.
    """
    with learn.added(*callbacks):
        return schedule_plot.plot(learn, n_epochs, name, ax)


# Layer groups


def freeze_to(learn: FullLearner, n: int, *, train_norms: bool = True) -> None:
    """Freeze the layer groups before group `n`, and train the others.

    Args:
        learn: the learner.
        n: the first group to train, from 0; -1 is the last.
        train_norms: train the weights and biases of all normalization layers, as fastai does. Their running
            statistics change too, unless `BatchNormFreeze` is used.

    Raises:
        TypeError, ValueError: there is no such group.
    """
    groups.freeze_to(learn, n, train_norms)


def freeze(learn: FullLearner, *, train_norms: bool = True) -> None:
    """Freeze all layer groups but the last; `train_norms` is that of `freeze_to`.

    Raises:
        ValueError: there is only one group.
    """
    if len(learn.layer_groups) == 1:
        raise ValueError(
            "freeze(): there is only one layer group, so there is nothing to freeze. Pass a splitter, as in "
            f"Learner(..., splitter={groups.EXAMPLE})."
        )
    groups.freeze_to(learn, -1, train_norms)


def unfreeze(learn: FullLearner) -> None:
    """Train all layer groups."""
    groups.freeze_to(learn, 0, True)


# The search for a rate and a batch size


@suggest_keywords
def lr_find(
    learn: FullLearner,
    start: float = 1e-7,
    end: float = 10.0,
    *,
    n_steps: int = 100,
    stop_factor: float | None = 4.0,
) -> LRSearch:
    """Train for some steps at a growing rate in a sandbox, and suggest a rate from the losses.

    Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Callbacks that measure,
    decide, report, save or average are left out. With several groups, the largest rate is the one that
    grows, and the ratios between the groups stay the same.

    Args:
        learn: the learner.
        start: the rate of the first step.
        end: the rate of the last step; each step multiplies the rate by the same factor.
        n_steps: the number of steps, at least 10; the data is repeated as often as needed.
        stop_factor: end the search when the smoothed loss is this many times the lowest one; None: never.

    Returns:
        The rates and losses, the suggestions `.valley`, `.slide`, `.minimum` and `.steep`, and `.plot()`.

    Raises:
        TypeError, ValueError: a setting cannot be used.
        RuntimeError: the loss is not finite, or grows, in the first steps.
    """
    return search(learn, start, end, n_steps, stop_factor)


def find_batch_size(
    learn: FullLearner,
    *,
    limit: str | int | None = None,
    margin: float = 0.1,
    start: int = 2,
    up_to: int | None = None,
    n_steps: int = 5,
    max_seconds: float | None = 120.0,
    make_batch: Callable[[int], Any] | None = None,
) -> batch_size.BatchSizes:
    """Try batch sizes in a sandbox, doubling and then halving, and measure the memory and time of each.

    All callbacks run except those that may write files or send numbers. If the last two sizes predict that
    the next one needs more than `limit`, it is not tried, so that a CPU machine does not run out of memory.
    Batches consist of rows of a real batch, or of collated items of the data set. On a CPU only the bytes of
    tensors count; the temporary memory of kernels, and the copy of weights and optimizer state for the
    sandbox, come in addition. This is not tested on an accelerator yet.

    Args:
        learn: the learner.
        limit: the bytes that training may use, without the data set, such as `"4 GB"`; by default the free
            memory.
        margin: the share of the limit that the suggested size leaves free, from 0 to below 1.
        start: the first size.
        up_to: the last size; by default the number of training items.
        n_steps: the number of timed steps of each size.
        max_seconds: start no further trial after this time; None: search until the largest size is found.
        make_batch: a function that returns a batch of a number of items, if the batches of the loader cannot
            be made larger.

    Returns:
        The trials, `.suggested`, `.largest` and `.quickest`; `print` shows a table.

    Raises:
        TypeError, ValueError: a setting cannot be used, or no batch of another size can be made.
        RuntimeError: not even one item fits.
    """
    return batch_size.find(
        learn, batch_size.Settings(limit, margin, start, up_to, n_steps, max_seconds, make_batch)
    )
