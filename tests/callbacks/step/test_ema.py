"""The exponential moving average: its numbers, and which weights the model has when."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from ground.watched_weights import Watch, by_hand
from resumed import Interrupt, differs, make, outcome
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from callbacks import (
    EMA,
    CancelStep,
    EarlyStopping,
    LearnerWarning,
    Order,
    When,
    ZeroGrad,
    on,
)
from learner import Data, Learner

# The numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_the_average_equals_that_of_torch_bit_for_bit(buffers):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    data = Data(line_batches(3), line_batches(2))
    learn = Learner(
        model(),
        data,
        F.mse_loss,
        partial(torch.optim.Adam, lr=0.1),
        [EMA(0.9, warmup=False, buffers=buffers)],
        defaults=(ZeroGrad,),
    )
    learn.fit(2)

    theirs, plain = None, model()
    theirs = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(plain)
    floats = [each for each in plain.buffers() if each.is_floating_point()]
    averages: Any = [each.clone() for each in floats]
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, targets in line_batches(3):
            F.mse_loss(plain(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            theirs.update_parameters(plain)
            for average, value in zip(averages, floats, strict=True):
                average.lerp_(value, 1 - 0.9)
    for ours, other in zip(learn.model.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(ours, other)
    found = [each for each in learn.model.buffers() if each.is_floating_point()]
    for ours, other in zip(found, averages if buffers == "average" else floats, strict=True):
        assert torch.equal(ours, other)


def test_the_warm_up_forgets_the_first_weights(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.4), watch])
    before = learn.model.weight.detach().clone()
    learn.fit(2)
    weights = [before, *watch.seen["after_step"]]
    expected = by_hand(weights, lambda n: min(0.4, (1 + n) / (10 + n)))
    assert torch.allclose(learn.model.weight, expected, rtol=1e-6)
    assert learn.callbacks.ema.n_updates == 6


def test_averages_of_half_precision_are_kept_in_float32(make_learner):
    ema: Any = EMA(0.99, warmup=False, at_end="weights")
    batches = [(x.bfloat16(), y.bfloat16()) for x, y in line_batches(3)]
    learn = make_learner(data=Data(batches), model=nn.Linear(1, 1).bfloat16(), callbacks=[ema])
    learn.fit(1)
    assert ema.averages["weight"].dtype == torch.float32
    assert learn.model.weight.dtype == torch.bfloat16
    assert not torch.equal(ema.averages["weight"], ema.averages["weight"].bfloat16().float())


def test_integers_and_double_precision_are_left_as_they_are(make_learner):
    model = nn.Linear(1, 1).double()
    model.register_parameter("table", nn.Parameter(torch.tensor([3]), requires_grad=False))
    batches = [(x.double(), y.double()) for x, y in line_batches(3)]
    learn = make_learner(data=Data(batches), model=model, callbacks=[EMA(at_end="weights")])
    learn.fit(1)
    averages = learn.callbacks.ema.averages
    assert {name: each.dtype for name, each in averages.items()} == dict.fromkeys(
        ["weight", "bias"], torch.float64
    )


def test_a_lazy_layer_is_averaged_from_its_first_update_on(make_learner):
    learn = make_learner(model=nn.LazyLinear(1), callbacks=[EMA(0.5, warmup=False, at_end="weights")])
    learn.fit(1)
    assert set(learn.callbacks.ema.averages) == {"weight", "bias"}


def test_accumulated_gradients_are_one_update(make_learner):
    @on("before_step", order=Order.GRADIENT)
    def accumulate(learn):
        if learn.batch_idx % 3 != 2:
            raise CancelStep

    learn = make_learner(callbacks=[EMA(), accumulate])
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2


# Interrupted and resumed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "buffers"),
    [(2, "copy"), (7, "copy"), (8, "copy"), (10, "copy"), (11, "copy"), (9, "average"), (13, "average")],
)
def test_a_fit_interrupted_in_training_or_validation_resumes_with_the_same_bits(tmp_path, at, buffers):
    whole = make(tmp_path / "whole", callbacks=(EMA(0.9, buffers=buffers),))
    whole.fit(3)
    expected = outcome(whole)
    learn = make(tmp_path / "resumed", callbacks=(EMA(0.9, buffers=buffers), Interrupt(at)))
    learn.fit(3)
    assert learn.stop_reason == "interrupted by a test"
    again = make(tmp_path / "resumed", callbacks=(EMA(0.9, buffers=buffers),), seed=5)
    again.fit(3, resume="must")
    assert not differs(outcome(again), expected)
    shutil.rmtree(tmp_path / "resumed")


def test_a_fit_that_is_ended_already_has_the_averages_again(tmp_path):
    whole = make(tmp_path, callbacks=(EMA(0.9),))
    whole.fit(2)
    again = make(tmp_path, callbacks=(EMA(0.9),), seed=5)
    again.fit(2, resume="must")
    assert not differs(outcome(again)["weights"], outcome(whole)["weights"])


# What it refuses ------------------------------------------------------------------------------------------


def test_two_averages_are_refused_with_both_names(make_learner):
    learn = make_learner(callbacks=[EMA(), EMA(0.9, name="slow")])
    with pytest.raises(ValueError, match=r"EMA and EMA \('slow'\)"):
        learn.fit(1)
    with pytest.raises(ValueError, match="two callbacks are named 'ema'"):
        make_learner(callbacks=[EMA(), EMA()])


def test_trained_weights_at_the_end_beside_a_restored_best_epoch_raise_a_warning(make_learner):
    stop = EarlyStopping(patience=1)
    with pytest.warns(LearnerWarning, match=r"EMA\(at_end='weights'\) does not decide.*restore_best=False"):
        make_learner(callbacks=[EMA(at_end="weights"), stop]).fit(1)
    make_learner(callbacks=[EMA(), stop]).fit(1)  # the settings of the tests make a warning an error
    make_learner(callbacks=[EMA(at_end="weights"), EarlyStopping(restore_best=False)]).fit(1)


def test_a_window_that_would_leave_the_averages_in_the_model_is_refused(make_learner):
    for window in ({"until": "1 epoch"}, {"every": "2 epochs"}):
        with pytest.raises(ValueError, match="start= alone"):
            make_learner(callbacks=[When(EMA(), **window)]).fit(1)


def test_it_can_start_late_and_run_at_intervals(make_learner):
    learn = make_learner(
        callbacks=[
            When(EMA(0.5), start="4 steps"),
        ]
    )
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2
    learn = make_learner(callbacks=[When(EMA(0.5), every="3 steps")])
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"decay": 1},
        {"decay": -0.1},
        {"decay": "0.9"},
        {"decay": True},
        {"decay": float("nan")},
        {"warmup": 10},
        {"buffers": "mean"},
        {"at_end": True},
    ],
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=rf"EMA\({next(iter(wrong))}="):
        EMA(**wrong)
