"""Noise on the weights, and branches that are dropped."""

from __future__ import annotations

import math
import random

import pytest
import torch
from resumed import Crash, differs, make, outcome
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    EMA,
    SWA,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    EarlyStopping,
    Order,
    StochasticDepth,
    ValidateEvery,
    WeightNoise,
    When,
    on,
)

# WeightNoise ----------------------------------------------------------------------------------------------


def test_the_fit_is_that_of_a_loop_by_hand_bit_for_bit(make_learner):
    learn = make_learner(callbacks=[WeightNoise(0.3, seed=5)])
    learn.model.bias.requires_grad_(requires_grad=False)
    learn.fit(2)
    torch.manual_seed(0)
    model, draws = nn.Linear(1, 1), random.Random(5)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    for _ in range(2):
        for inputs, targets in line_batches(3):
            kept = model.weight.detach().clone()
            generator = torch.Generator().manual_seed(draws.getrandbits(63))
            with torch.no_grad():
                model.weight += torch.empty(1, 1).normal_(0, 0.3, generator=generator)
            F.mse_loss(model(inputs), targets).backward()
            model.weight.data = kept
            optimizer.step()
            optimizer.zero_grad()
            model.bias.grad = None
    assert not differs({**learn.model.state_dict()}, {**model.state_dict()})


def test_the_noise_is_normal_with_the_given_deviation(make_learner):
    found = []

    @on("after_pred")
    def look(learn):
        found.append(learn.model[0].weight.detach().clone())

    model = nn.Sequential(nn.Linear(1, 1000), nn.Linear(1000, 1))
    learn = make_learner(model=model, lr=1e-9, callbacks=[WeightNoise(0.2), look], valid=False)
    before = learn.model[0].weight.detach().clone()
    learn.fit(1)
    noise = torch.stack(found) - before
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_the_weights_are_without_noise_in_the_step_and_in_validation(make_learner):
    learn = make_learner(callbacks=[WeightNoise(9.0), ValidateEvery("1 step")], lr=1e-30)
    weight = learn.model.weight.detach().clone()
    seen = []

    def look(learn):
        seen.append(learn.model.weight.detach().clone())

    for event in ("before_step", "after_step", "before_validate", "after_batch", "after_epoch"):
        learn.add_callbacks(on(event, name=event)(look))
    learn.fit(2)
    assert len(seen) > 10
    assert all(torch.equal(each, weight) for each in seen)


@pytest.mark.parametrize("error", [CancelBatch, CancelStep, CancelTrain, CancelEpoch, ZeroDivisionError])
@pytest.mark.parametrize(
    "event", ["before_batch", "after_pred", "before_backward", "after_backward", "before_step"]
)
def test_a_batch_that_is_left_in_the_middle_leaves_no_noise(make_learner, error, event):
    @on(event, order=Order.SAVE)
    def leave(learn):
        if learn.training and learn.batch_idx:
            raise error

    learn = make_learner(callbacks=[WeightNoise(9.0), leave], lr=1e-30)
    weight = learn.model.weight.detach().clone()
    if error is ZeroDivisionError:
        with pytest.raises(error):
            learn.fit(2)
    elif error is CancelStep and event != "before_step":
        return
    else:
        learn.fit(2)
    assert torch.equal(learn.model.weight, weight)


@pytest.mark.parametrize("cancel", [CancelTrain, CancelEpoch, CancelFit])
@pytest.mark.parametrize(
    "other",
    [lambda: EMA(0.5), lambda: SWA(0.0), lambda: EarlyStopping("train_loss")],
    ids=["EMA", "SWA", "Stop"],
)
def test_averages_and_kept_weights_contain_no_noise(make_learner, other, cancel):
    @on("before_backward", order=Order.SAVE)
    def leave(learn):
        if learn.epoch == 1 and learn.batch_idx:
            raise cancel

    learn = make_learner(callbacks=[other(), WeightNoise(9.0), leave], lr=1e-30)
    weight, seen = learn.model.weight.detach().clone(), []
    for event in ("before_validate", "after_epoch", "after_fit"):
        look = on(event, order=Order.SAVE, name=event)(lambda learn: seen.append(learn.model.weight.item()))
        learn.add_callbacks(look)
    learn.fit(3)
    assert set(seen) == {weight.item()}
    assert torch.equal(learn.model.weight, weight)


def test_the_best_weights_stay_where_a_cancel_ends_the_fit_in_a_noisy_batch(make_learner):
    @on("before_backward")
    def leave(learn):
        if learn.training and learn.epoch == 2:
            raise CancelFit

    learn = make_learner(callbacks=[WeightNoise(0.1), EarlyStopping("train_loss"), leave], lr=3.0)
    seen: list[float] = []
    learn.add_callbacks(on("after_epoch", name="keep")(lambda learn: seen.append(learn.model.weight.item())))
    learn.fit(3)
    assert learn.model.weight.item() == seen[0]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("at", [2, 8, 13])
def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path, at, seed):
    whole = make(tmp_path / "whole", callbacks=(WeightNoise(0.1, seed=seed),))
    whole.fit(2)
    expected = outcome(whole)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "resumed", callbacks=(WeightNoise(0.1, seed=seed),)).fit(2, callbacks=[Crash(at)])
    again = make(tmp_path / "resumed", callbacks=(WeightNoise(0.1, seed=seed),), seed=5)
    again.fit(2, resume="must")
    assert not differs(outcome(again), expected)


def test_two_at_the_same_time_are_refused_with_both_names_before_the_first_step(make_learner):
    learn = make_learner(callbacks=[WeightNoise(), WeightNoise(name="more")])
    with pytest.raises(ValueError, match=r"WeightNoise and WeightNoise \('more'\) both add noise"):
        learn.fit(1)
    assert learn.global_step == 0


def test_one_may_follow_another(make_learner):
    first, second = WeightNoise(9.0), WeightNoise(3.0, name="second")
    learn = make_learner(callbacks=[When(first, until="1 epoch"), When(second, start="1 epoch")], lr=1e-30)
    weight = learn.model.weight.detach().clone()
    learn.fit(2)
    assert torch.equal(learn.model.weight, weight)


@pytest.mark.parametrize(
    "wrong", [{"std": 0}, {"std": math.inf}, {"std": "0.1"}, {"std": True}, {"seed": -1}]
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"WeightNoise\({next(iter(wrong))}="):
        WeightNoise(**wrong)


# StochasticDepth ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 4, 4)])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_rows_are_dropped_as_by_hand(shape, p):
    x = torch.rand(shape, requires_grad=True)
    torch.manual_seed(3)
    found = StochasticDepth(p)(x)
    torch.manual_seed(3)
    kept = torch.empty([7, *[1] * (len(shape) - 1)]).bernoulli_(1 - p) if p else torch.ones(7)
    for n in range(7):
        expected = x[n] * (kept.flatten()[n] / (1 - p if p < 1 else 1))
        assert torch.allclose(found[n], expected)
    found.sum().backward()
    assert x.grad is not None


def test_the_mean_stays_and_evaluation_does_nothing():
    layer, x = StochasticDepth(0.25), torch.ones(40_000, dtype=torch.float64)
    assert layer(x).mean().item() == pytest.approx(1, abs=0.02)
    assert layer(x.bfloat16()).unique().tolist() == pytest.approx([0, 4 / 3], rel=1e-2)
    assert layer.eval()(x) is x
    assert repr(layer) == "StochasticDepth(p=0.25)"


def test_the_rates_rise_linearly():
    assert StochasticDepth.rates(4) == [0.125, 0.25, 0.375, 0.5]
    assert StochasticDepth.rates(2, last=0.2) == [0.1, 0.2]


def test_a_model_with_stochastic_depth_trains_in_a_learner(make_learner):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.drop = nn.Linear(1, 1), StochasticDepth(0.5)

        def forward(self, x):
            return x + self.drop(self.branch(x))

    learn = make_learner(model=Block())
    first = learn.validate()["valid_loss"]
    learn.fit(20)
    assert learn.results["valid_loss"] < first / 2


@pytest.mark.parametrize("p", [-0.1, 1.1, True, "0.5", math.nan])
def test_an_invalid_probability_is_refused(p):
    with pytest.raises(ValueError, match="a probability from 0 to 1"):
        StochasticDepth(p)
