"""GradientAccumulation: small batches give the weights of large ones."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fits.accumulated import X, Y, are_close, batches, learner_of
from kernels import Kernels
from torch import nn
from torch.nn import functional as F

from callbacks import (
    GradientAccumulation,
    GradientClip,
    LRMonitor,
    Metrics,
    TorchScheduler,
)


@pytest.mark.parametrize(
    ("small", "large", "callback"),
    [
        ((4, 4, 4, 4), (8, 8), lambda: GradientAccumulation(2)),
        ((4, 4, 4, 4, 3), (8, 8, 3), lambda: GradientAccumulation(2)),
        ((4, 4, 4, 4, 4, 2), (12, 10), lambda: GradientAccumulation(3)),
        ((5, 1, 2, 7, 3, 4), (8, 10, 4), lambda: GradientAccumulation(n_samples=8)),
        ((4, 3), (7,), lambda: GradientAccumulation(100)),
        ((4, 3), (4, 3), lambda: GradientAccumulation(1)),
    ],
)
@pytest.mark.parametrize("clip", [False, True])
def test_small_batches_give_the_weights_of_large_ones(small, large, callback, clip):
    clips = [GradientClip(0.05)] if clip else []
    one = learner_of(batches(*small), *clips, callback())
    other = learner_of(batches(*large), *([GradientClip(0.05)] if clip else []))
    one.fit(3)
    other.fit(3)
    assert one.global_step == other.global_step == 3 * len(large)
    assert are_close(one, other)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_weighted_by_tokens_the_gradient_is_that_of_all_tokens(as_tensor):
    ignored = torch.zeros(16, 1, dtype=torch.bool)
    ignored[[0, 1, 2, 9]] = True
    targets = torch.where(ignored, torch.nan, Y[:16])

    def loss_func(preds, targets):
        there = ~targets.isnan()
        return F.mse_loss(preds[there], targets[there])

    def tokens(learn):
        n = (~learn.targets.isnan()).sum()
        return n if as_tensor else n.item()

    data = [(X[:4], targets[:4]), (X[4:12], targets[4:12]), (X[12:16], targets[12:])]
    weighted = Metrics(weight=tokens), GradientAccumulation(3, weight=tokens)
    one = learner_of(data, *weighted, loss_func=loss_func)
    other = learner_of([(X[:16], targets)], loss_func=loss_func)
    one.fit(3)
    other.fit(3)
    assert are_close(one, other)


def test_even_batches_have_the_bits_of_a_loop_by_hand():
    learn = learner_of(batches(5, 5, 5, 5), GradientAccumulation(2))
    hand = learner_of(batches(5, 5, 5, 5))
    learn.fit(2)
    for n, (inputs, targets) in enumerate(2 * batches(5, 5, 5, 5)):
        hand.loss_func(hand.model(inputs), targets).backward()
        if n % 2:
            for parameter in hand.model.parameters():
                parameter.grad /= 2
            hand.optimizer.step()
            hand.optimizer.zero_grad()
    pairs = zip(learn.model.parameters(), hand.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_update_divides_all_gradients_in_one_call():
    class Counting(GradientAccumulation):
        def before_step(self, learn):
            with kernels:
                super().before_step(learn)

    kernels = Kernels()
    learner_of(batches(4, 4), Counting(2)).fit(3)
    assert kernels.n == {"_foreach_div_": 3}


def test_the_loss_that_is_reported_is_not_scaled():
    one, other = (
        learner_of(batches(4, 3), GradientAccumulation(2), lr=1e-30),
        learner_of(batches(4, 3), lr=1e-30),
    )
    assert one.fit(1)["train_loss"] == other.fit(1)["train_loss"]
    assert list(one.history.steps["train_loss"]) == list(other.history.steps["train_loss"])


def test_a_schedule_is_stepped_once_per_update():
    schedule = TorchScheduler(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5), every="1 step")
    learn = learner_of(batches(4, 4, 4, 4), schedule, LRMonitor(), GradientAccumulation(2))
    assert learn.fit(1)[0]["lr_0"] == pytest.approx(0.1 * 0.25)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GradientAccumulation(), "pass one of the two"),
        (lambda: GradientAccumulation(2, n_samples=8), "pass one of the two"),
        (lambda: GradientAccumulation(0), "pass a whole number above 0"),
        (lambda: GradientAccumulation(n_samples=2.5), "pass a whole number above 0"),
        (lambda: GradientAccumulation(True), "pass a whole number above 0"),
        (lambda: GradientAccumulation(2, weight=3), "pass a function of the learner"),
    ],
)
def test_a_wrong_setting_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_second_one_is_refused_before_the_fit():
    learn = learner_of(batches(4), GradientAccumulation(2), GradientAccumulation(4, name="other"))
    with pytest.raises(ValueError, match="leave one of them out"):
        learn.fit(1)


def test_gradients_of_a_sum_are_added_and_not_divided():
    loss_func = nn.MSELoss(reduction="sum")
    one = learner_of(batches(4, 3, 5, 1), GradientAccumulation(2), loss_func=loss_func, lr=1e-3)
    other = learner_of(batches(7, 6), loss_func=loss_func, lr=1e-3)
    one.fit(3)
    other.fit(3)
    assert are_close(one, other)


def test_a_weight_that_is_not_above_zero_is_refused():
    learn = learner_of(batches(4), GradientAccumulation(2, weight=lambda learn: 0))
    with pytest.raises(ValueError, match="returned 0 for batch 0"):
        learn.fit(1)
