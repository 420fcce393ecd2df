"""LeanStep takes the ordinary step if it must, and reports the reason."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ground.lean_steps import N_BATCHES, N_EPOCHS, SETTINGS, assert_same, assert_same_fit, learner_of, net
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.optimizer import register_optimizer_step_pre_hook

from callbacks import (
    ClosureStep,
    LeanStep,
    LearnerWarning,
    ZeroGrad,
    on,
)
from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.lean_step import find_engine
from learner import Learner


def assert_falls_back(reason: str, *callbacks, **options) -> Learner:
    """A fit warns once with this reason, and ends as the ordinary one."""
    ordinary = learner_of(step=ZeroGrad, **copy.deepcopy(options))
    ordinary.fit(N_EPOCHS)
    learn = learner_of(*callbacks, **options)
    with pytest.warns(LearnerWarning, match=reason) as caught:
        learn.fit(N_EPOCHS)
    assert len([each for each in caught if "LeanStep" in str(each.message)]) == 1
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())
    assert_same(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    return learn


def test_a_hook_that_changes_the_gradient_of_the_loss_in_place_acts_once():
    def loss_func(preds, targets):
        loss = F.mse_loss(preds, targets)
        loss.register_hook(lambda grad: grad.mul_(0.5))
        return loss

    assert_same_fit(loss_func=loss_func)


# Ways back to the ordinary step


class MySGD(SGD):
    pass


def with_own_step(parameters):
    optimizer = SGD(parameters, lr=0.1)
    optimizer.step = partial(SGD.step, optimizer)
    return optimizer


def with_own_zero_grad(parameters):
    optimizer = SGD(parameters, lr=0.1)
    optimizer.zero_grad = partial(SGD.zero_grad, optimizer)
    return optimizer


def with_hook(register):
    def make(parameters):
        optimizer = SGD(parameters, lr=0.1)
        getattr(optimizer, register)(lambda optimizer, args, kwargs: None)
        return optimizer

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (torch.optim.RMSprop, "the optimizer is RMSprop, but LeanStep supports only SGD, Adam and AdamW"),
        (MySGD, "the optimizer is MySGD"),
        (partial(SGD, lr=torch.tensor(0.1)), "its lr is a tensor"),
        (partial(Adam, betas=(torch.tensor(0.9), torch.tensor(0.99))), "its betas is a tensor"),
        (with_own_step, "its step was replaced"),
        (with_own_zero_grad, "its zero_grad was replaced"),
        (with_hook("register_step_pre_hook"), "hooks are registered on the step of SGD"),
        (with_hook("register_step_post_hook"), "hooks are registered on the step of SGD"),
    ],
)
def test_an_unknown_optimizer_takes_the_ordinary_step(make, reason):
    learn = assert_falls_back(reason, optimizer=make)
    assert reason in learn.callbacks[LeanStep].fallback


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(Adam, capturable=True, foreach=False), "capturable"),
        (partial(SGD, differentiable=True), "leaf"),
    ],
)
def test_an_error_of_the_ordinary_step_is_the_same_one(make, reason):
    learn = learner_of(optimizer=make)
    with pytest.warns(LearnerWarning, match="it was made with"), pytest.raises(Exception, match=reason):
        learn.fit(1)  # on weights that are leaves, and on a CPU


def test_a_hook_that_all_optimizers_share_is_called():
    calls = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: calls.append(1))
    try:
        assert_falls_back("hooks are registered")
    finally:
        handle.remove()
    assert len(calls) == 2 * N_EPOCHS * N_BATCHES


def test_a_hook_that_comes_in_mid_fit_is_called_from_then_on():
    calls = []

    @on("before_step")
    def register(learn):
        if learn.global_step == 5:
            learn.optimizer.register_step_post_hook(lambda optimizer, args, kwargs: calls.append(1))

    assert_falls_back("hooks are registered", register)
    assert len(calls) == N_EPOCHS * N_BATCHES - 5


def test_a_rate_that_becomes_a_tensor_in_mid_fit_takes_the_ordinary_step():
    @on("before_step")
    def change(learn):
        learn.optimizer.param_groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)

    learn = learner_of(change)
    with pytest.warns(LearnerWarning, match="its lr is a tensor"):
        learn.fit(1)


def test_sparse_gradients_take_the_ordinary_step():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(2, 1, sparse=True)

        def forward(self, inputs):
            return self.table((inputs[:, 0] > 0.5).long())

    ordinary = learner_of(step=ZeroGrad, model=Embedded(), optimizer=SETTINGS[0])
    ordinary.fit(2)
    learn = learner_of(model=Embedded(), optimizer=SETTINGS[0])
    with pytest.warns(LearnerWarning, match="a gradient is sparse"):
        learn.fit(2)
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())


def test_complex_parameters_take_the_ordinary_step():
    model = net()
    model.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    assert_falls_back("a parameter is complex", model=model)


def test_a_kernel_that_is_missing_or_takes_other_arguments_is_reported_and_not_used(
    monkeypatch,
):
    monkeypatch.delattr(torch, "_foreach_mul_")
    assert_falls_back("take other arguments in torch .*_foreach_mul_")


@pytest.mark.parametrize("make", [SETTINGS[2], SETTINGS[9]], ids=str)
def test_a_kernel_that_gives_other_numbers_fails_the_proof_and_changes_nothing(make, monkeypatch):
    real = torch._foreach_mul_
    monkeypatch.setattr(torch, "_foreach_mul_", lambda tensors, value: real(tensors, value * 1.0001))
    assert_falls_back("differ from those of the ordinary step", optimizer=make)


def test_a_kernel_that_only_one_group_needs_is_compared_too(monkeypatch):
    def grouped(parameters):
        first, *others = parameters
        return SGD([{"params": [first], "momentum": 0.9}, {"params": others}], lr=0.1)

    test_a_kernel_that_gives_other_numbers_fails_the_proof_and_changes_nothing(grouped, monkeypatch)


def test_a_kernel_that_loses_the_sign_of_a_zero_fails_the_proof(monkeypatch):
    real = torch._foreach_add_

    def add(tensors, *args, **options):
        real(tensors, *args, **options)
        for each in tensors:
            each[each == 0] = 0.0

    monkeypatch.setattr(torch, "_foreach_add_", add)
    assert_falls_back("differ from those of the ordinary step", optimizer=partial(SGD, lr=0.1))


def test_a_missing_engine_is_reported_and_the_fit_is_the_ordinary_one(monkeypatch):
    monkeypatch.setattr(torch.autograd, "Variable", SimpleNamespace())
    assert_falls_back("ordinary loss.backward.*has no engine")


def test_an_engine_that_gives_other_gradients_is_not_taken(monkeypatch):
    def run_backward(losses, ones, *rest):
        (2 * losses[0]).backward()

    engine = SimpleNamespace(run_backward=run_backward)
    monkeypatch.setattr(torch.autograd, "Variable", SimpleNamespace(_execution_engine=engine))
    with pytest.raises(Unfit, match=r"not \[8, 12\]"):
        find_engine()


def test_each_fit_checks_the_optimizer_again():
    learn = learner_of()
    handle = learn.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: None)
    with pytest.warns(LearnerWarning, match="hooks"):
        learn.fit(1)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    assert learn.callbacks[LeanStep].fallback is None


def test_gradients_that_are_nan_are_equal_in_the_proof():
    learn = learner_of(loss_func=lambda preds, targets: F.mse_loss(preds, targets) * float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    assert learn.callbacks[LeanStep].fallback is None


@pytest.mark.parametrize("other", [ZeroGrad, ClosureStep])
def test_a_second_callback_that_overrides_step_is_refused(other):
    with pytest.raises(ValueError, match="two callbacks implement"):
        learner_of(LeanStep(), other())


def test_the_ordinary_step_is_not_called(monkeypatch):
    @on("before_train")
    def forbid(learn):
        monkeypatch.setattr(torch.autograd.profiler, "record_function", None)  # the wrappers begin with it

    learn = learner_of(forbid)
    learn.fit(1)
    assert learn.global_step == N_BATCHES
