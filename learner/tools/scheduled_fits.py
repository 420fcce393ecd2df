"""Training with a schedule of the learning rate: methods of every Learner.

A rate is one number for all layer groups. `slice(lo, hi)` goes from `lo` for the first group to `hi` for the
last one, and `slice(hi)` is a tenth of `hi` for all groups but the last. None stands for the optimizer's own
rates. With several optimizers (`Optimizers`), the one with the largest rate gets this rate, and the others
keep their ratios to it.
"""

from __future__ import annotations

from typing import Any

from callbacks.core.given import as_callbacks
from callbacks.core.settings import check_count, is_number
from callbacks.history.history import History
from callbacks.optim import hyperparameters
from callbacks.schedule.annealers import flat_cos, one_cycle, sgdr
from callbacks.schedule.param_scheduler import ParamScheduler
from learner.engine import groups
from learner.engine.composition import as_list
from learner.messages.keywords import suggest_keywords_beside
from learner.state.protocol import FullLearner

PASSED_ON = ("resume", "allow", "n_batches")  # keywords that are not arguments of these methods themselves
Rate = float | slice
Momentums = tuple[float, float, float]


@suggest_keywords_beside(*PASSED_ON)
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
    """Train with the 1cycle policy: the rate rises to a peak and falls, and the momentum falls and rises.

    Both follow cosines, as in fastai.

    Args:
        learn: the learner.
        n_epochs: the number of epochs.
        lr_max: the peak of the rate.
        div: the rate starts at `lr_max / div`; at least 1.
        div_final: the rate ends at `lr_max / div_final`; at least 1.
        pct_start: the share of the fit before the peak, within (0, 1).
        moms: momentums, or first betas, at the start, at the peak and at the end. None leaves them unchanged.
            They also stay unchanged in an optimizer without momentum, such as SGD with a momentum of 0.
        callbacks: callbacks for this fit only.
        **settings: `resume=` and `allow=` of `fit`, and `n_batches=`, the number of batches of an epoch, if
            the loader has no length.

    Returns:
        The history.

    Raises:
        TypeError, ValueError: a setting cannot be used; other errors are those of `fit`.

    Source: Smith and Topin 2018, arXiv:1708.07120, "Super-convergence".
    """
    check_factors("fit_one_cycle", div=div, div_final=div_final)
    check_momentums(moms)
    schedules: dict[str, Any] = {
        "lr": [one_cycle(rate / div, rate, rate / div_final, pct_start) for rate in rates_of(learn, lr_max)]
    }
    if moms is not None and hyperparameters.has_momentum(learn.optimizer):
        schedules["momentum"] = one_cycle(*moms, pct_start)
    return fit_by(learn, "fit_one_cycle", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*PASSED_ON)
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
    """Train at a constant rate for the share `pct_start` of the fit, then let the rate fall along a cosine.

    The rate ends at `lr / div_final`. The other arguments, results and errors are those of `fit_one_cycle`.
    """
    check_factors("fit_flat_cos", div_final=div_final)
    schedules = {"lr": [flat_cos(rate, rate / div_final, pct_start) for rate in rates_of(learn, lr)]}
    return fit_by(learn, "fit_flat_cos", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*PASSED_ON)
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
    """Train with `n_cycles` cosines from `lr_max` to 0, each `cycle_mult` times as long as the one before.

    `cycle_len` is the number of epochs of the first one. The other arguments, results and errors are those of
    `fit_one_cycle`.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, "SGDR".
    """
    for name, value in (("n_cycles", n_cycles), ("cycle_len", cycle_len), ("cycle_mult", cycle_mult)):
        check_count("fit_sgdr", name, value, 1)
    n_epochs = sum(cycle_len * cycle_mult**cycle for cycle in range(n_cycles))
    schedules = {"lr": [sgdr(rate, 0.0, n_cycles, float(cycle_mult)) for rate in rates_of(learn, lr_max)]}
    return fit_by(learn, "fit_sgdr", schedules, n_epochs, callbacks, settings)


@suggest_keywords_beside(*PASSED_ON)
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
    """Train the last layer group, then all groups of a model that was trained on other data.

    The first fit trains the last group for `freeze_epochs` at the rate `base_lr`, with all others frozen. The
    second one trains all groups for `n_epochs`: the last group at half of `base_lr`, the first one at a rate
    `lr_mult` times lower. Both fits have one cycle. The defaults are those of fastai.

    Args:
        learn: the learner.
        n_epochs: the number of epochs of the second fit.
        base_lr: the rate of the last group in the first fit.
        freeze_epochs: the number of epochs of the first fit.
        lr_mult: the rate of the last group divided by that of the first one; at least 1.
        pct_start: as for `fit_one_cycle`, in the second fit.
        div: as for `fit_one_cycle`, in the second fit.
        callbacks: callbacks for both fits.
        **settings: `resume=` and `allow=` of `fit`.

    Raises:
        TypeError, ValueError: a setting cannot be used, or the learner has only one layer group, so there is
            nothing to freeze.

    Source: Howard and Ruder 2018, arXiv:1801.06146, "Universal language model fine-tuning".
    """
    check_factors("fine_tune", lr_mult=lr_mult)
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
        raise TypeError("there is no optimizer to schedule: pass Learner(..., optimizer=...).")
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
    """Fit with schedules under the name of the method, so that another `ParamScheduler` can be added."""
    scheduler = ParamScheduler(schedules, n_batches=settings.pop("n_batches", None), name=name)
    return learn.fit(n_epochs, [*as_list(callbacks, "callbacks"), scheduler], **settings)


def check_momentums(moms: Any) -> None:
    """Refuse what is not three momentums, or None."""
    are_three = isinstance(moms, (tuple, list)) and len(moms) == 3
    if moms is not None and not (are_three and all(is_number(each) and 0 <= each < 1 for each in moms)):
        raise ValueError(
            f"fit_one_cycle(moms={moms!r}): pass three numbers from 0 to below 1, as (0.95, 0.85, 0.95), "
            "or None to leave the momentum unchanged."
        )


def check_factors(function: str, **values: Any) -> None:
    """Refuse numbers that are below 1, infinite, or not numbers."""
    for name, value in values.items():
        if not is_number(value) or value < 1:
            raise ValueError(f"{function}({name}={value!r}): {name} must be a finite number of at least 1.")
