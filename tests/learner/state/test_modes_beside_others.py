"""Optimizers with two modes, combined with averages, fast steps and other callbacks."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from schedule_free import ScheduleFreeSGD
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, lr_scheduler
from upper.moded import KINDS, learner_of, same, weights

from callbacks import (
    EMA,
    SWA,
    Callback,
    GradientAccumulation,
    LeanStep,
    ParamScheduler,
    TorchScheduler,
    ValidateEvery,
    WholeStep,
)
from callbacks.schedule.annealers import cos
from learner import Data, Learner


@pytest.mark.parametrize("optimizer", KINDS, ids=["settings", "attribute", "wrapped", "several"])
def test_training_in_a_sandbox_leaves_no_trace(optimizer, capsys):
    learn = learner_of(optimizer=optimizer)
    learn.fit(1)
    before = weights(learn)
    learn.lr_find(n_steps=20)
    assert learn.check().ok
    assert same(before, weights(learn))
    other = learner_of(optimizer=optimizer)
    other.fit(1)
    learn.fit(1)
    other.fit(1)
    assert same(weights(other), weights(learn))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ParamScheduler({"lr": cos(0.1, 0.01)}),
        lambda: TorchScheduler(partial(lr_scheduler.StepLR, step_size=1)),
        lambda: ValidateEvery("3 steps"),
        lambda: EMA(0.5),
    ],
    ids=["ParamScheduler", "TorchScheduler", "ValidateEvery", "EMA"],
)
def test_a_second_fit_continues_with_other_callbacks(callback):
    learn = learner_of(callback())
    learn.fit(1)
    group = learn.optimizer.param_groups[0]
    assert (group["lr"], group["is_training"], group["n_steps"]) == (0.1, False, 4)
    learn.fit(1)
    assert learn.optimizer.param_groups[0]["n_steps"] == 8


def test_an_average_of_the_weights_uses_those_of_training_mode():
    averages = []

    class Steps(Callback):
        def after_step(self, learn):
            averages.append(weights(learn))

    learn = learner_of(Steps, EMA(0.5, warmup=False))
    mean = weights(learn)
    learn.fit(1)
    for step in averages:
        mean = [one.lerp(other, 0.5) for one, other in zip(mean, step, strict=True)]
    assert all(map(torch.allclose, mean, weights(learn)))


def test_swa_averages_the_evaluation_weights_at_the_end_of_each_epoch():
    ends = []

    class Ends(Callback):
        def after_validate(self, learn):
            ends.append(weights(learn))

    learn = learner_of(Ends, SWA(1))
    learn.fit(3)
    mean = [(one + other) / 2 for one, other in zip(ends[1], ends[2], strict=True)]
    assert all(map(torch.allclose, mean, weights(learn)))


def test_the_last_accumulated_update_of_a_pass_of_unknown_length_is_in_training_mode():
    batches = line_batches(3)

    def fitted(train):
        torch.manual_seed(0)
        learn = Learner(
            nn.Linear(1, 1), Data(train), F.mse_loss, ScheduleFreeSGD, [GradientAccumulation(2), EMA(0.5)]
        )
        learn.fit(2)
        return weights(learn)

    assert same(fitted(batches), fitted(lambda: iter(batches)))


@pytest.mark.parametrize(
    ("one", "other"), [(partial(SGD, lr=0.1), ScheduleFreeSGD), (ScheduleFreeSGD, partial(SGD, lr=0.1))]
)
def test_an_optimizer_with_modes_may_replace_another_during_a_fit(one, other):
    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer = other(learn.model.parameters())

    learn = learner_of(Replace, optimizer=one)
    before = len(learn.callbacks)
    learn.fit(3)
    assert not learn.optimizer.param_groups[0].get("is_training", False)
    assert len(learn.callbacks) == before
    learn.fit(1)


@pytest.mark.filterwarnings("ignore::callbacks.LearnerWarning")
@pytest.mark.parametrize("fast", [LeanStep, partial(WholeStep, "eager")])
def test_the_fast_steps_train_like_the_ordinary_step(fast):
    ordinary, quick = learner_of(), learner_of(fast())
    ordinary.fit(2)
    quick.fit(2)
    assert all(map(torch.allclose, weights(ordinary), weights(quick)))


def test_the_cost_of_a_step_is_measured_in_training_mode(capsys):
    assert learner_of().cost(20).n_steps == 20


def test_an_optimizer_without_modes_adds_no_callbacks():
    seen = []

    class Look(Callback):
        def before_batch(self, learn):
            seen.append(len(learn.callbacks))

    learn, other = learner_of(Look, optimizer=partial(SGD, lr=0.1)), learner_of(Look)
    learn.fit(1)
    n_plain = seen[-1]
    other.fit(1)
    assert seen[-1] == n_plain + 2


def test_a_copy_of_the_optimizer_is_not_asked_for_a_mode_it_lacks():
    learn = learner_of(optimizer=partial(SGD, lr=0.1))
    kept = copy.deepcopy(learn.snapshot())
    learn.fit(1)
    learn.restore(kept)
    assert same(weights(learn), weights(learner_of()))
