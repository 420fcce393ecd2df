"""SWA: interrupted fits, and what is refused."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from ground.averaged import learner_of
from resumed import Interrupt, differs, make, outcome
from torch.optim.lr_scheduler import ExponentialLR

from callbacks import (
    EMA,
    SWA,
    EarlyStopping,
    LearnerWarning,
    LRMonitor,
    ParamScheduler,
    TorchScheduler,
    When,
    on,
)
from callbacks.schedule.annealers import lin
from learner import DEFAULT_CALLBACKS

# Interrupted and resumed ---------------------------------------------------------------------------------


def made(folder, *callbacks, seed=0):
    learn = make(folder, callbacks=(SWA(0.3, anneal_epochs=2, lr=0.01), *callbacks), seed=seed)
    learn.remove_callbacks(learn.callbacks[EarlyStopping], learn.callbacks[TorchScheduler])
    learn.add_callbacks(EarlyStopping(patience=9, restore_best=False))
    return learn


@pytest.mark.parametrize("at", [5, 9, 11, 25, 31, 33, 40])
def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path, at):
    whole = made(None)
    whole.fit(4)
    expected = outcome(whole)
    learn = made(tmp_path / "resumed", Interrupt(at))
    learn.fit(4)
    assert learn.stop_reason == "interrupted by a test"
    again = made(tmp_path / "resumed", seed=5)
    again.fit(4, resume="must")
    assert not differs(outcome(again), expected)


def test_a_fit_that_is_ended_already_has_the_averages_again(tmp_path):
    whole = made(tmp_path)
    whole.fit(2)
    expected = outcome(whole)
    again = made(tmp_path, seed=5)
    again.fit(2, resume="must")
    assert not differs(outcome(again), expected)


# What it refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([SWA(), EMA()], "SWA and EMA both average"),
        ([SWA(), SWA(name="again")], "SWA and SWA .'again'. both average"),
        ([SWA(), EarlyStopping("train_loss")], "restore_best=False"),
        (
            [SWA(lr=0.1), TorchScheduler(partial(ExponentialLR, gamma=0.9))],
            "SWA 'swa' and TorchScheduler 'torch_scheduler' both change lr.* leave lr out of SWA",
        ),
        (
            [SWA(lr=0.1), ParamScheduler({"lr": lin(1, 0)})],
            "SWA 'swa' and ParamScheduler 'param_scheduler' both change lr",
        ),
        ([SWA(7)], "the fit has 2 epochs"),
        ([When(SWA(), until="1 epoch")], "start= alone"),
    ],
)
def test_a_callback_that_would_undo_it_is_refused(callbacks, words, make_learner):
    with pytest.raises(ValueError, match=words):
        make_learner(callbacks=copy.deepcopy(callbacks)).fit(2)


def test_a_schedule_may_end_where_the_averaging_begins():
    schedule = When(TorchScheduler(partial(ExponentialLR, gamma=0.5)), until="2 epochs")
    learn = learner_of(SWA(2, lr=0.02), schedule, LRMonitor(), defaults=DEFAULT_CALLBACKS)
    learn.fit(4)
    assert list(learn.history["lr_0"]) == pytest.approx([0.1, 0.05, 0.02, 0.02])
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


def test_a_schedule_that_ends_after_the_averaging_begins_is_refused():
    schedule = When(TorchScheduler(partial(ExponentialLR, gamma=0.5)), until="3 epochs")
    with pytest.raises(ValueError, match="SWA 'swa' and TorchScheduler 'torch_scheduler' both change lr"):
        learner_of(SWA(0.5, lr=0.02), schedule).fit(4)


def test_a_recipe_with_a_schedule_and_its_rate_is_refused_by_name():
    learn = learner_of(SWA(lr=0.02))
    with pytest.raises(ValueError, match="SWA 'swa' and ParamScheduler 'fit_one_cycle' both change lr"):
        learn.fit_one_cycle(4)
    assert learn.global_step == 0


def test_without_its_own_rate_it_works_with_a_schedule_and_does_not_change_the_rates():
    @on("after_fit")
    def keep(learn):
        learn.optimizer.param_groups[0]["lr"] = 0.5

    learn = learner_of(SWA(), keep)
    learn.fit(2)
    assert learn.optimizer.param_groups[0]["lr"] == 0.5


def test_a_fit_that_ends_before_the_averaging_starts_is_reported(make_learner):
    @on("after_epoch")
    def stop(learn):
        learn.stop("enough")

    learn, plain = make_learner(callbacks=[SWA(), stop]), make_learner()
    with pytest.warns(LearnerWarning, match="ended before epoch 3"):
        learn.fit(4)
    plain.fit(1)
    assert torch.equal(learn.model.weight, plain.model.weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 1.0},
        {"start": -1},
        {"start": True},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": "0.1"},
        {"anneal_epochs": -1},
        {"anneal_epochs": 1.5},
        {"anneal": "exp"},
        {"anneal_epochs": 3},
    ],
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"SWA\({next(iter(wrong))}="):
        SWA(**wrong)
