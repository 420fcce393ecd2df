"""An optimizer that is replaced in mid-fit is scheduled from its own settings, and gets them back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ground.replaced import (
    N_BATCHES,
    after_epoch,
    at,
    learner_of,
    line,
)
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from callbacks import (
    SWA,
    GradientClip,
    Order,
    ParamScheduler,
    ReduceLROnPlateau,
    TorchScheduler,
    on,
)
from callbacks.annealers import lin

# Rates


def swap_optimizer(learn) -> None:
    learn.optimizer = SGD(learn.model.parameters(), lr=0.02)


def test_another_optimizer_is_scheduled_relative_to_its_own_rate_and_gets_it_back():
    rates: list[float] = []
    look = on("after_step", name="look")(lambda learn: rates.append(learn.optimizer.param_groups[0]["lr"]))
    learn = learner_of(
        line(),
        ParamScheduler({"lr": lambda progress: 0.5}, relative=True),
        after_epoch(0, swap_optimizer),
        look,
    )
    first = learn.optimizer
    learn.fit(2)
    assert rates == N_BATCHES * [0.05] + N_BATCHES * [0.01]
    assert learn.optimizer.param_groups[0]["lr"] == 0.02
    assert first.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ParamScheduler({"lr": lambda progress: 0.5}),
        lambda: ReduceLROnPlateau("train_loss", patience=0, min_delta=10.0),
        lambda: SWA(0, lr=0.5),
    ],
)
def test_another_optimizer_gets_its_settings_back(callback):
    learn = learner_of(line(), callback(), after_epoch(0, swap_optimizer))
    first = learn.optimizer
    learn.fit(4)
    assert learn.optimizer.param_groups[0]["lr"] == 0.02
    assert first.param_groups[0]["lr"] == 0.1


def test_a_torch_scheduler_reports_that_its_optimizer_is_no_longer_used():
    learn = learner_of(
        line(), TorchScheduler(partial(ExponentialLR, gamma=0.5)), after_epoch(0, swap_optimizer)
    )
    with pytest.raises(ValueError, match="optimizer was replaced"):
        learn.fit(2)


def test_swa_anneals_a_group_that_comes_in_mid_fit_from_its_own_rate():
    extra = nn.Parameter(torch.zeros(1))
    add = at(
        "before_batch", 0, 0, lambda learn: learn.optimizer.add_param_group({"params": [extra], "lr": 0.3})
    )
    rates: list[list[float]] = []
    look = on("before_train", name="look")(
        lambda learn: rates.append([group["lr"] for group in learn.optimizer.param_groups])
    )
    learner_of(line(), SWA(0, lr=0.05, anneal_epochs=4, anneal="linear"), add, look).fit(4)
    assert rates[1] == pytest.approx([0.075, 0.175])
    assert rates[3] == pytest.approx([0.05, 0.05])


def with_added_group(event, batch_idx, callback, n_epochs=3):
    """The rates of an added group in each update, and of all groups after the fit."""
    extra, seen = nn.Parameter(torch.zeros(1)), []
    add = at(
        event, 1, batch_idx, lambda learn: learn.optimizer.add_param_group({"params": [extra], "lr": 0.3})
    )

    @on("before_step", order=Order.SAVE)
    def look(learn):
        seen.append([float(group["lr"]) for group in learn.optimizer.param_groups])

    learn = learner_of(line(), callback, add, look)
    learn.fit(n_epochs)
    return [each[1] for each in seen if len(each) > 1], [g["lr"] for g in learn.optimizer.param_groups]


@pytest.mark.parametrize(("event", "batch_idx"), [("before_train", 0), ("after_step", 1)])
def test_a_group_that_comes_in_mid_fit_has_rates_relative_to_its_own(event, batch_idx):
    half = ParamScheduler({"lr": lambda progress: 0.5}, relative=True)
    rates, after = with_added_group(event, batch_idx, half)
    assert set(rates) == {0.15}
    assert after == [0.1, 0.3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ParamScheduler({"lr": lin(0.5, 0.0)}),
        lambda: TorchScheduler(partial(ExponentialLR, gamma=0.5), every="1 step"),
        lambda: ReduceLROnPlateau("train_loss", patience=0, min_delta=10.0),
        lambda: SWA(0, lr=0.5),
    ],
)
@pytest.mark.parametrize(("event", "batch_idx"), [("before_train", 0), ("after_step", 1)])
def test_a_group_that_comes_in_mid_fit_gets_its_rate_back(make, event, batch_idx):
    assert with_added_group(event, batch_idx, make())[1] == [0.1, 0.3]


# Clipping


def test_the_share_of_clipped_updates_is_that_of_the_bounds_they_had():
    loosen = at("before_batch", 0, 1, lambda learn: setattr(learn.callbacks.gradient_clip, "max_norm", 1e6))
    learn = learner_of(line(), GradientClip(1e-6), loosen)
    learn.fit(1)
    assert learn.history[-1]["clipped"] == 1 / N_BATCHES
