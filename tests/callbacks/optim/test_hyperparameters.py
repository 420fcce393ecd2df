"""One callback for each hyperparameter, a schedule as long as the fit, and settings that are restored."""

from __future__ import annotations

from functools import partial

import pytest
from ground.schedules import STEP_LR, one_cycle_of
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    PolynomialLR,
)

from callbacks import (
    SWA,
    GradientAccumulation,
    LearnerWarning,
    ParamScheduler,
    ReduceLROnPlateau,
    ShortEpoch,
    TorchScheduler,
    When,
    on,
)
from callbacks.schedule.annealers import constant, lin

MAKE = {
    "ParamScheduler": lambda: ParamScheduler({"lr": lin(1.0, 0.0)}),
    "another ParamScheduler": lambda: ParamScheduler({"lr": lin(1.0, 0.0)}, name="another"),
    "TorchScheduler": lambda: TorchScheduler(STEP_LR),
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "SWA": lambda: SWA(lr=0.1),
    "When": lambda: When(ParamScheduler({"lr": lin(1.0, 0.0)}, name="held"), every="2 steps"),
    "another When": lambda: When(TorchScheduler(STEP_LR, name="held_too"), every="2 epochs"),
    "OneCycleLR": lambda: one_cycle_of(12, "1 step"),
}


PAIRS = [
    (one, other)
    for one in MAKE
    for other in MAKE
    if one != other and {one, other} != {"TorchScheduler", "OneCycleLR"}  # of one name
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_callbacks_that_change_the_rate_are_refused_by_name(with_momentum, one, other):
    learn = with_momentum(MAKE[one](), MAKE[other]())
    with pytest.raises(ValueError, match="both change lr") as caught:
        learn.fit(4)
    assert learn.global_step == 0
    assert learn.optimizer.param_groups[0]["lr"] == 0.1
    assert "leave one of them out" in str(caught.value)
    assert ("leave lr out" in str(caught.value)) == ("SWA" in (one, other))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_scheduler_that_cycles_momentum_and_another_of_momentum_are_refused(with_momentum, is_first):
    both = [one_cycle_of(12), ParamScheduler({"momentum": lin(0.9, 0.8)})]
    with pytest.raises(ValueError, match="both change momentum"):
        with_momentum(*(both if is_first else both[::-1])).fit(4)


def test_a_scheduler_of_the_rate_only_works_with_one_of_momentum(with_momentum):
    with_momentum(TorchScheduler(STEP_LR), ParamScheduler({"momentum": lin(0.9, 0.8)})).fit(1)


def test_one_schedule_may_follow_another(with_momentum):
    rates = []
    learn = with_momentum(
        When(ParamScheduler({"lr": lin(1.0, 0.0)}, name="first"), until="1 epoch"),
        When(ParamScheduler({"lr": constant(0.5)}, name="second"), start="1 epoch"),
    )
    learn.fit(2, [on("after_step")(lambda learn: rates.append(learn.optimizer.param_groups[0]["lr"]))])
    assert rates == pytest.approx([1, 0.5, 0, 0.5, 0.5, 0.5])


def test_two_that_overlap_are_refused_all_the_same(with_momentum):
    learn = with_momentum(
        When(ParamScheduler({"lr": lin(1.0, 0.0)}, name="first"), until="3 epochs"),
        When(ParamScheduler({"lr": constant(0.5)}, name="second"), start="1 epoch"),
    )
    with pytest.raises(ValueError, match="both change lr"):
        learn.fit(4)


# As long as the fit


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (lambda: one_cycle_of(5), "total_steps=5, and it will be stepped 6 times"),
        (lambda: TorchScheduler(partial(CosineAnnealingLR, T_max=3), every="1 step"), "T_max=3"),
        (lambda: TorchScheduler(partial(PolynomialLR, total_iters=2), every="1 step"), "total_iters=2"),
    ],
)
def test_a_schedule_shorter_than_the_fit_is_reported_at_its_start(with_momentum, scheduler, words):
    with pytest.raises(LearnerWarning, match=f"shorter than the fit: {words}"):
        with_momentum(scheduler()).fit(2)


@pytest.mark.parametrize(
    "callbacks",
    [(one_cycle_of(2, "4 samples"),), (one_cycle_of(2), GradientAccumulation(2))],
    ids=["samples", "sums"],
)
def test_where_its_length_is_seen_in_the_fit_only_torchs_error_shows_the_fix(with_momentum, callbacks):
    with pytest.raises(
        ValueError, match=r"shorter than the fit, which has 4 epochs.*Use a larger total_steps"
    ):
        with_momentum(*callbacks).fit(4)


def test_one_cycle_by_epochs_that_is_too_short_is_refused_before_the_first_step(with_momentum):
    learn = with_momentum(one_cycle_of(2, "1 epoch"))
    with pytest.raises(ValueError, match="Use total_steps=3, or train for 2 epochs"):
        learn.fit(3)
    assert learn.global_step == 0


@pytest.mark.parametrize("total", [7, 40])
def test_a_schedule_longer_than_the_fit_is_reported_after_it(with_momentum, total):
    if total == 7:  # torch has a value for the step after the last
        with_momentum(one_cycle_of(total)).fit(2)
    else:
        with pytest.warns(LearnerWarning, match="longer than the fit: total_steps=40, and it was"):
            with_momentum(one_cycle_of(total)).fit(2)


def test_a_fit_that_was_stopped_gets_no_warning(with_momentum):
    stop = on("after_batch")(lambda learn: learn.stop("enough"))
    with_momentum(one_cycle_of(40)).fit(2, [stop])


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: one_cycle_of(6),
        lambda: one_cycle_of(2, "1 epoch"),
        lambda: TorchScheduler(partial(CosineAnnealingLR, T_max=6), every="1 step"),
        lambda: TorchScheduler(partial(CosineAnnealingLR, T_max=5), every="1 step"),
        lambda: TorchScheduler(partial(ExponentialLR, gamma=0.9)),
    ],
)
def test_a_schedule_of_the_fits_length_gets_no_warning(with_momentum, scheduler):
    with_momentum(scheduler()).fit(2)


def test_short_epochs_make_a_short_fit(with_momentum):
    with_momentum(ShortEpoch(2), one_cycle_of(4)).fit(2)


def test_with_accumulated_gradients_a_schedule_counts_updates(with_momentum):
    learn = with_momentum(GradientAccumulation(3), one_cycle_of(2))
    learn.fit(2)
    assert learn.global_step == 2
    with pytest.raises(ValueError, match="counts updates"):
        learn.plot_schedule(2)


def test_where_gradients_add_up_a_param_scheduler_still_ends_with_the_fit(with_momentum):
    seen = []
    learn = with_momentum(GradientAccumulation(3), ParamScheduler({"lr": lin(0.0, 1.0)}))
    learn.fit(2, [on("after_step")(lambda learn: seen.append(learn.optimizer.param_groups[0]["lr"]))])
    assert seen == pytest.approx([0.0, 1.0])
