"""Training by a schedule, freezing, and the search for a rate: methods of every Learner.

Rates are one number for all groups; or, by layer group, `slice(lo, hi)` from the first to the last, or
`slice(hi)`, a tenth of it for all but the last; None for the optimizer's own rates. With several optimizers
(`Optimizers`), the one with the largest rate gets this rate; the others keep their ratios to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from callbacks.core.given import as_callbacks
from callbacks.core.settings import is_number
from callbacks.history.history import History
from callbacks.optim import hyperparameters
from callbacks.schedule.annealers import flat_cos, one_cycle, sgdr
from callbacks.schedule.param_scheduler import ParamScheduler
from learner.engine import groups
from learner.engine.composition import as_list
from learner.messages.keywords import suggest_keywords, suggest_keywords_beside
from learner.state.protocol import FullLearner
from learner.tools import batch_size, schedule_plot
from learner.tools.lr_find import LRSearch, search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HANDED_ON = ("resume", "allow", "n_batches")  # by the methods that fit by a schedule
Rate = float | slice
Momentums = tuple[float, float, float]


# By a schedule


@suggest_keywords_beside(*HANDED_ON)
def fit_one_cycle(
    learn: FullLearner,
    n_epochs: int,
    lr_max: Rate | None = None,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    moms: Momentums | None = (0.95, 0.85, 0.95),
    callbacks: Any = (),
    **settings: Any,
) -> History:
    """Train by the 1cycle policy: the rate up to a peak and down, the momentum down and up.

    Smith and Topin 2018, "Super-convergence: very fast training of neural networks using large learning
    rates"; both along cosines, as in fastai.

    Args:
        learn: the learner.
        n_epochs: how many.
        lr_max: the peak.
        div: the rate begins at `lr_max / div`, at least 1.
        div_final: and ends at `lr_max / div_final`.
        pct_start: the share of the fit up to the peak, within (0, 1).
        moms: momentums, or first betas, at the beginning, the peak and the end; None leaves them, as it
            does for an optimizer that has none, such as SGD with a momentum of 0.
        callbacks: further plug-ins for this fit.
        **settings: `resume=` and `allow=` as of `fit`; `n_batches=` of an epoch, where the loader does
            not know it.

    Returns:
        The history.

    Raises:
        TypeError, ValueError: a setting cannot be used.
    """
    check_above(1, "fit_one_cycle", div=div, div_final=div_final)
    schedules: dict[str, Any] = {
        "lr": [one_cycle(rate / div, rate, rate / div_final, pct_start) for rate in rates_of(learn, lr_max)]
    }
    if moms is not None and hyperparameters.has_momentum(learn.optimizer):
        schedules["momentum"] = one_cycle(*moms, pct_start)
    return fit_by(learn, "fit_one_cycle", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*HANDED_ON)
def fit_flat_cos(
    learn: FullLearner,
    n_epochs: int,
    lr: Rate | None = None,
    *,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    callbacks: Any = (),
    **settings: Any,
) -> History:
    """Train `n_epochs` epochs at one rate, up to the share `pct_start`, then down along a cosine.

    It ends at `lr / div_final`. The other arguments, results and errors are those of `fit_one_cycle`.
    """
    check_above(1, "fit_flat_cos", div_final=div_final)
    schedules = {"lr": [flat_cos(rate, rate / div_final, pct_start) for rate in rates_of(learn, lr)]}
    return fit_by(learn, "fit_flat_cos", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*HANDED_ON)
def fit_sgdr(
    learn: FullLearner,
    n_cycles: int,
    cycle_len: int,
    lr_max: Rate | None = None,
    *,
    cycle_mult: int = 2,
    callbacks: Any = (),
    **settings: Any,
) -> History:
    """Train by `n_cycles` cosines from `lr_max` to 0, each `cycle_mult` times as long as the one before.

    `cycle_len` is the first one's number of epochs. Loshchilov and Hutter 2017, "SGDR: Stochastic
    gradient descent with warm restarts". The other arguments, results and errors are those of
    `fit_one_cycle`.
    """
    for name, value in (("n_cycles", n_cycles), ("cycle_len", cycle_len), ("cycle_mult", cycle_mult)):
        if type(value) is not int or value < 1:
            raise ValueError(f"fit_sgdr({name}={value!r}): write a whole number of at least 1.")
    n_epochs = sum(cycle_len * cycle_mult**cycle for cycle in range(n_cycles))
    schedules = {"lr": [sgdr(rate, 0.0, n_cycles, float(cycle_mult)) for rate in rates_of(learn, lr_max)]}
    return fit_by(learn, "fit_sgdr", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*HANDED_ON)
def fine_tune(
    learn: FullLearner,
    n_epochs: int,
    base_lr: float = 2e-3,
    *,
    freeze_epochs: int = 1,
    lr_mult: float = 100.0,
    pct_start: float = 0.3,
    div: float = 5.0,
    callbacks: Any = (),
    **settings: Any,
) -> History:
    """Train the last layer group alone, then all: for a model that was trained on other data.

    First `freeze_epochs` with all but the last group frozen, at `base_lr`; then `n_epochs` of all, at
    half of it for the last group and `lr_mult` times less for the first, both by one cycle. Howard and
    Ruder 2018, "Universal language model fine-tuning for text classification"; settings as in fastai.

    Args:
        learn: the learner.
        n_epochs: how many after the first.
        base_lr: the rate of the last group in the first part.
        freeze_epochs: how many with the other groups frozen.
        lr_mult: how many times less the first group's rate is, at least 1.
        pct_start: as of `fit_one_cycle`, for the second part.
        div: as of `fit_one_cycle`, for the second part.
        callbacks: further plug-ins, for both parts.
        **settings: `resume=` and `allow=`, as of `fit`.

    Raises:
        ValueError: the learner has one layer group only: there is nothing to freeze.
    """
    check_above(1, "fine_tune", lr_mult=lr_mult)
    groups.checked_rate(base_lr)
    learn.freeze()
    shared = {"callbacks": as_callbacks(as_list(callbacks, "callbacks"), "callbacks"), **settings}
    learn.fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99, **shared)
    learn.unfreeze()
    rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
    return learn.fit_one_cycle(n_epochs, rates, pct_start=pct_start, div=div, **shared)


def rates_of(learn: FullLearner, rate: Rate | None) -> list[float]:
    """One rate for each of the optimizer's groups."""
    if learn.optimizer is None:
        raise TypeError(
            "there is no optimizer whose rate could be scheduled: pass Learner(..., optimizer=...)."
        )
    settings = learn.optimizer.param_groups
    if rate is None:
        return [float(group["lr"]) for group in settings]
    return groups.rates_of(learn.optimizer, rate, len(learn.layer_groups))


def fit_by(
    learn: FullLearner,
    name: str,
    schedules: dict[str, Any],
    n_epochs: int,
    callbacks: Any,
    settings: dict[str, Any],
) -> History:
    """Fit by schedules that bear the method's name, so that another `ParamScheduler` may stand beside."""
    given = callbacks if isinstance(callbacks, (list, tuple)) else list(callbacks)
    scheduler = ParamScheduler(schedules, n_batches=settings.pop("n_batches", None), name=name)
    return learn.fit(n_epochs, [*given, scheduler], **settings)


def plot_schedule(
    learn: FullLearner, n_epochs: int, name: str = "lr", *, callbacks: Any = (), ax: Axes | None = None
) -> Axes:
    """Draw what a hyperparameter would be over a fit, for each parameter group; nothing is trained.

    Args:
        learn: the learner.
        n_epochs: how long the fit would be.
        name: the hyperparameter.
        callbacks: further plug-ins, as `fit` would have them.
        ax: where to draw; by default a new figure of 6 x 4 inches.

    Returns:
        The axes; `.figure.savefig(path)` keeps the picture.

    Raises:
        ValueError: no `ParamScheduler` or `TorchScheduler` changes it, or it cannot be foreseen.
    """
    with learn.added(*callbacks):
        return schedule_plot.plot(learn, n_epochs, name, ax)


# Layer groups


def freeze_to(learn: FullLearner, n: int, *, train_norms: bool = True) -> None:
    """Train layer group `n` and those after it; the parameters of those before stay as they are.

    Args:
        learn: the learner.
        n: the first group to train, from 0; -1 is the last.
        train_norms: train the weights and biases of norms all the same, as fastai does: their statistics
            go on changing too, unless `BatchNormFreeze` is there.

    Raises:
        TypeError, ValueError: there is no such group.
    """
    groups.freeze_to(learn, n, train_norms)


def freeze(learn: FullLearner, *, train_norms: bool = True) -> None:
    """Train the last layer group alone; `train_norms` as of `freeze_to`.

    Raises:
        ValueError: there is only one.
    """
    if len(learn.layer_groups) == 1:
        raise ValueError(
            "freeze(): there is one layer group, so nothing would be frozen. Pass a splitter, as "
            f"Learner(..., splitter={groups.EXAMPLE})."
        )
    groups.freeze_to(learn, -1, train_norms)


def unfreeze(learn: FullLearner) -> None:
    """Train all layer groups."""
    groups.freeze_to(learn, 0, True)


# The search for a rate


@suggest_keywords
def lr_find(
    learn: FullLearner,
    start: float = 1e-7,
    end: float = 10.0,
    *,
    n_steps: int = 100,
    stop_factor: float | None = 4.0,
) -> LRSearch:
    """Train for some steps at a growing rate, and tell which rate the losses speak for; no trace is left.

    Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Plug-ins that decide,
    report, save or average sit out. Groups keep the ratios of their rates; the largest is what grows.

    Args:
        learn: the learner.
        start: the rate of the first step.
        end: the rate of the last; each step multiplies by the same factor.
        n_steps: how many, at least 10; the data is gone through again as often as needed.
        stop_factor: the search ends where the smoothed loss is this many times the lowest; None: never.

    Returns:
        Rates, losses and what they suggest: `.valley`, `.slide`, `.minimum`, `.steep`, and `.plot()`.

    Raises:
        TypeError, ValueError: a setting cannot be used.
        RuntimeError: the loss is not finite, or grows, at the first rates already.
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
    """Try batch sizes, doubling and then halving, and tell what each takes; no trace is left.

    Plug-ins take part, but those that may write files or send numbers. A size of which the two before
    foretell that it would go beyond `limit` is not tried, so that a CPU machine does not run out of
    memory. Batches are rows of a real batch, or items of the data set collated. On a CPU the bytes are
    those of tensors: what a kernel takes for itself for a moment, and the copy of weights and optimizer
    state from which the sandbox is put back, come on top. On an accelerator this has not run yet.

    Args:
        learn: the learner.
        limit: bytes that training may hold, data set not counted, as `"4 GB"`; by default what is free.
        margin: the share of it that the suggested size leaves free, from 0 to below 1.
        start: the first size.
        up_to: the last; by default the number of training items.
        n_steps: steps that are timed, of each size.
        max_seconds: after so long it tries nothing more; None: until it has found the largest.
        make_batch: makes a batch of so many items, where the loader's cannot be made larger.

    Returns:
        The curve, `.suggested`, `.largest` and `.quickest`; printed, a table.

    Raises:
        TypeError, ValueError: a setting cannot be used, or no batch of another size can be made.
        RuntimeError: not even one item fits.
    """
    return batch_size.find(
        learn, batch_size.Settings(limit, margin, start, up_to, n_steps, max_seconds, make_batch)
    )


def check_above(low: float, function: str, **values: Any) -> None:
    """Refuse a divisor that is none.

    Raises:
        ValueError: it is below `low`.
    """
    for name, value in values.items():
        if not is_number(value) or value < low:
            raise ValueError(f"{function}({name}={value!r}): write a finite number of at least {low}.")
