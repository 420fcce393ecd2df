"""SAM and ClosureStep against loops by hand, with the same bits; what the second pass leaves untouched."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    SAM,
    Checkpoint,
    ClosureStep,
    GradientAccumulation,
    GradientClip,
    Metrics,
    Order,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner

sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
lbfgs = partial(torch.optim.LBFGS, lr=0.5, max_iter=5, line_search_fn="strong_wolfe")


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(dropout), nn.Tanh(), nn.Linear(4, 1)
    return nn.Sequential(*layers)


def learner_of(*callbacks, optimizer=sgd, model=None, n_batches=3) -> Learner:
    data, defaults = Data(line_batches(n_batches)), (ZeroGrad, Metrics, Recorder)
    return Learner(model or net(), data, F.mse_loss, optimizer, callbacks, defaults=defaults)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)


def sam_by_hand(model, n_epochs, *, adaptive=False, rho=0.05, max_norm=None) -> None:
    """Algorithm 1 of the paper; the second pass runs on a copy, so it changes no statistics."""
    optimizer, clip = sgd(model.parameters()), partial(nn.utils.clip_grad_norm_, max_norm=max_norm)
    for inputs, targets in n_epochs * line_batches(3):
        random = torch.get_rng_state()
        F.mse_loss(model(inputs), targets).backward()
        after = torch.get_rng_state()
        if max_norm:
            clip(model.parameters())
        other = copy.deepcopy(model)
        with torch.no_grad():
            gradients = [each.grad for each in model.parameters()]
            scales = [each.abs() if adaptive else torch.tensor(1.0) for each in model.parameters()]
            norm = nn.utils.get_total_norm([g * s for g, s in zip(gradients, scales, strict=True)])
            for weight, gradient, scale in zip(other.parameters(), gradients, scales, strict=True):
                weight += gradient * scale * scale * (rho / (norm + 1e-12))
                weight.grad = None
        torch.set_rng_state(random)
        F.mse_loss(other(inputs), targets).backward()
        torch.set_rng_state(after)
        for weight, moved in zip(model.parameters(), other.parameters(), strict=True):
            weight.grad = moved.grad
        if max_norm:
            clip(model.parameters())
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_sam_has_the_weights_statistics_and_draws_of_a_loop_by_hand(adaptive, dropout, max_norm):
    callbacks = [GradientClip(max_norm)] if max_norm else []
    learn = learner_of(SAM(adaptive=adaptive), *callbacks, model=net(dropout))
    torch.manual_seed(1)
    learn.fit(2)
    drawn, model = torch.get_rng_state(), net(dropout)
    torch.manual_seed(1)
    sam_by_hand(model, 2, adaptive=adaptive, max_norm=max_norm)
    for one, other in zip(learn.model.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(drawn, torch.get_rng_state())


def test_sam_reports_the_loss_of_the_first_pass():
    one, other = learner_of(SAM(), n_batches=1), learner_of(n_batches=1)
    assert one.fit(1)["train_loss"] == other.fit(1)["train_loss"]


def test_callbacks_that_change_the_loss_run_in_both_passes_and_those_that_measure_in_one():
    called = []

    @on("after_loss", order=Order.TRANSFORM)
    def penalise(learn):
        called.append("penalty")
        learn.loss_grad = learn.loss_grad + learn.model[0].weight.square().sum()

    @on("after_loss")
    def measure(learn):
        called.append("measure")

    learner_of(SAM(), penalise, measure, n_batches=1).fit(1)
    assert called == ["penalty", "measure", "penalty"]


def test_the_weights_are_restored_if_the_second_pass_fails():
    class Once(nn.Linear):
        n = 0

        def forward(self, inputs):
            self.n += 1
            if self.n == 2:
                raise ZeroDivisionError
            return super().forward(inputs)

    model = Once(1, 1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        learner_of(SAM(), model=model).fit(1)
    assert torch.equal(model.weight, before["weight"])


def test_lbfgs_has_the_weights_of_a_loop_by_hand_with_the_same_bits():
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    hand = copy.deepcopy(model)
    learn = learner_of(ClosureStep(), optimizer=lbfgs, model=model)
    losses = learn.fit(3).steps["train_loss"]
    optimizer, firsts = lbfgs(hand.parameters()), []
    for inputs, targets in 3 * line_batches(3):

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = F.mse_loss(hand(inputs), targets)
            loss.backward()
            return loss

        firsts.append(optimizer.step(closure).item())
    assert same(learn.model, hand)
    assert list(losses) == firsts
    assert learn.global_step == 9


def test_lbfgs_sees_one_function_under_dropout_and_one_update_of_statistics():
    learn = learner_of(ClosureStep(), optimizer=lbfgs, model=net(0.5), n_batches=1)
    seen = []

    @on("after_pred", order=Order.TRANSFORM)
    def see(learn):
        seen.append(torch.get_rng_state())

    learn.fit(1, callbacks=[see])
    assert len(seen) > 2
    assert all(torch.equal(each, seen[0]) for each in seen)
    assert learn.model[1].num_batches_tracked == 1


def test_an_optimizer_that_needs_no_closure_trains_as_without():
    one, other = learner_of(ClosureStep()), learner_of()
    one.fit(2)
    other.fit(2)
    assert same(one.model, other.model)


@pytest.mark.parametrize(("callback", "optimizer"), [(SAM, sgd), (ClosureStep, lbfgs)])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_interrupted_fit_that_is_resumed_ends_with_the_same_bits(tmp_path, callback, optimizer, at):
    def make(folder):
        torch.manual_seed(0)
        return learner_of(
            callback(), Checkpoint(tmp_path / folder, "1 step"), optimizer=optimizer, model=net(0.3)
        )

    whole = make("whole")
    whole.fit(2)
    with pytest.raises(ZeroDivisionError):
        make("run").fit(2, callbacks=[Crash(at)])
    learn = make("run")
    learn.fit(2, resume="must")
    assert same(learn.model, whole.model)


@pytest.mark.parametrize("callback", [SAM, ClosureStep])
def test_gradients_that_add_up_are_refused_with_both(callback):
    learn = learner_of(callback(), GradientAccumulation(2))
    with pytest.raises(ValueError, match=rf"GradientAccumulation .* {callback.__name__} .*leave one of them"):
        learn.fit(1)


def test_two_callbacks_that_override_step_are_refused():
    with pytest.raises(ValueError, match="two callbacks implement 'step': SAM and ClosureStep"):
        learner_of(SAM(), ClosureStep())


@pytest.mark.parametrize("rho", [0, -1, math.inf, math.nan, True, "0.05"])
def test_a_wrong_rho_is_refused(rho):
    with pytest.raises(ValueError, match=r"SAM.*must be a number above 0"):
        SAM(rho)
