"""A compiled step uses the present values, wherever the loss reads them."""
# ruff: noqa: E501

from __future__ import annotations

from functools import partial

import pytest
import torch
from changed_settings import BATCHES, Model, Slotted, fit, is_as_ordinary
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, WholeStep, ZeroGrad, on
from learner import Data, Learner


class Critic(nn.Module):
    """A frozen module that the loss is computed by; alpha fades it in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.alpha = nn.Linear(1, 1).double().requires_grad_(False), 0.0

    def forward(self, preds, targets):
        off = preds - targets
        return (off - self.alpha * self.layer(off)).square().mean()


CRITIC = Critic()


class Held:
    def __init__(self, critic):
        self.critic = critic

    def loss(self, preds, targets):
        return self.critic(preds, targets)


def around(critic, *, passed=()):
    def loss_func(preds, targets, critic=critic):
        return critic(preds, targets)

    return loss_func


def closed(critic):
    return lambda preds, targets: critic(preds, targets)


def counted(critic):
    n_calls = 0

    def loss_func(preds, targets):
        nonlocal n_calls
        n_calls += 1
        return critic(preds, targets) * (1 + n_calls % 2)

    return loss_func


REACHED = {
    "a closure": closed,
    "a default": around,
    "a partial": lambda critic: partial(lambda critic, preds, targets: critic(preds, targets), critic),
    "a bound method": lambda critic: critic.forward,
    "a method of an object": lambda critic: Held(critic).loss,
    "an object in a list": lambda critic: (lambda table: lambda p, t: table[0].loss(p, t))([Held(critic)]),
    "functions that call functions": lambda critic: (lambda one: lambda p, t: one(p, t))(closed(critic)),
    "a slot": lambda critic: (lambda own: lambda p, t: own.scale(p, t))(Slotted(critic)),
    "the module itself": lambda critic: critic,
}


@pytest.mark.parametrize("name", REACHED)
def test_a_module_that_the_loss_reaches_is_watched(name):
    def setting():
        critic = Critic()
        return partial(nn.Linear, 2, 1, dtype=torch.float64), REACHED[name](critic), lambda _: setattr(critic, "alpha", 0.5)  # fmt: skip

    assert is_as_ordinary(setting)


def test_a_module_among_the_globals_is_watched():
    def setting():
        CRITIC.alpha = 0.0
        return Model, lambda preds, targets: CRITIC(preds, targets), lambda _: setattr(CRITIC, "alpha", 0.5)

    assert is_as_ordinary(setting)


def test_the_current_mode_and_weights_of_a_module_outside_the_model_are_used():
    def setting():
        torch.manual_seed(1)
        critic = nn.Sequential(
            nn.Linear(1, 1).double().requires_grad_(False), nn.BatchNorm1d(1).double().eval()
        )
        critic.requires_grad_(False)

        def change(learn):
            with torch.no_grad():
                critic[0].weight.fill_(2.0)

        return Model, lambda preds, targets: critic(preds - targets).square().mean(), change

    assert is_as_ordinary(setting)


def test_a_closure_that_counts_its_calls_counts_each_step_once():
    assert not is_as_ordinary(lambda: (Model, counted(Critic()), lambda _: None))


def test_an_ordinary_loss_in_a_function_gets_a_program():
    criterion = nn.SmoothL1Loss()
    assert is_as_ordinary(
        lambda: (Model, lambda p, t: criterion(p, t) + 0.1 * F.l1_loss(p, t), lambda _: None)
    )


class Judge(Callback):
    """A callback that owns a layer of the loss, and changes its weights before the loss reads them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1).double().requires_grad_(False)

    def loss(self, preds, targets):
        return self.layer(preds - targets).square().mean()

    def after_pred(self, learn):
        if learn.training:
            self.layer.weight.mul_(0.9)


def judged(step):
    torch.manual_seed(0)
    judge = Judge()
    learn = Learner(
        nn.Linear(2, 1).double(), Data(BATCHES), judge.loss, partial(torch.optim.SGD, lr=0.1), [step, judge], defaults=()
    )  # fmt: skip
    learn.fit(2)
    return learn


def test_a_module_that_a_callback_trains_before_the_loss_reads_it_takes_the_ordinary_step():
    with pytest.warns(
        UserWarning, match=r"the loss reads Judge\.layer, which Judge may change in after_pred"
    ):
        whole = judged(WholeStep("eager"))
    assert torch.equal(whole.model.weight, judged(ZeroGrad()).model.weight)


def test_a_tensor_that_the_loss_reads_and_that_changes_before_it_is_an_error():
    scale = torch.ones((), dtype=torch.float64)
    act = on("after_pred", name="act")(lambda learn: scale.mul_(0.9))
    learn = Learner(
        nn.Linear(2, 1).double(), Data(BATCHES), lambda p, t: scale * F.mse_loss(p, t),
        partial(torch.optim.SGD, lr=0.1), [WholeStep("eager"), act], defaults=(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="has changed something that the loss reads"):
        learn.fit(1)


@torch.no_grad()
def shrink_weight(learn, held):
    held[0][0].weight.mul_(0.9)


def shrink_replaced(learn, held):
    held[1] *= 0.9


@pytest.mark.parametrize("change", [shrink_weight, shrink_replaced])
def test_a_weight_or_a_replaced_tensor_that_changes_before_the_loss_reads_it_is_an_error(change):
    model = nn.Sequential(nn.Linear(2, 1)).double()
    held = [model, torch.ones(1, dtype=torch.float64)]
    replace = on("before_batch", name="replace")(
        lambda learn: held.__setitem__(1, torch.ones(1, dtype=torch.float64))
    )
    act = on("after_pred", name="act")(lambda learn: learn.epoch == 1 and change(learn, held))
    learn = Learner(
        model, Data(BATCHES), lambda p, t: held[1] * F.mse_loss(p, t) + held[0][0].weight.square().sum(),
        partial(torch.optim.SGD, lr=0.1), [WholeStep("eager"), replace, act], defaults=(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="act has changed something that the loss reads"):
        learn.fit(2)


class TrainsCritic(Callback):
    """A callback that trains the module of the loss with the gradients of the step."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def before_fit(self, learn):
        self.optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)

    def after_step(self, learn):
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("reach", ["a closure", "an object in a list", "a partial"])
def test_a_module_of_the_loss_that_another_optimizer_trains_gets_its_gradients(reach):
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        critic = Critic().requires_grad_(True)
        critic.alpha = 0.5
        setting = Model, REACHED[reach](critic), lambda _: None
        fit(step, lambda setting=setting: setting, TrainsCritic(critic))
        ends.append(critic.state_dict())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-12)


def test_a_loss_that_reads_the_learner_trains_as_the_ordinary_step():
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        held = []
        setting = Model, lambda p, t, held=held: F.mse_loss(p, t) * (1 + held[0].epoch), lambda _: None
        keep = on("before_fit", name="keep")(lambda learn, held=held: held.append(learn))
        ends.append(fit(step, lambda setting=setting: setting, keep).model.state_dict())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-12)


LOSSES = {"main": F.mse_loss}


def test_the_current_functions_and_layers_of_a_table_are_used():
    def setting():
        LOSSES["main"] = F.mse_loss
        layers = [nn.Linear(1, 1).double().requires_grad_(False), nn.Identity()]

        def change(learn):
            LOSSES["main"] = F.l1_loss
            layers[0] = layers[1]

        torch.manual_seed(3)
        return Model, lambda p, t: LOSSES["main"](layers[0](p), t), change

    is_as_ordinary(setting)


def test_the_current_default_dtype_is_used():
    def setting():
        torch.set_default_dtype(torch.float32)
        return (
            Model,
            lambda p, t: F.mse_loss(p * torch.full((1,), 1 / 3), t),
            lambda _: torch.set_default_dtype(torch.float64),
        )

    try:
        is_as_ordinary(setting)
    finally:
        torch.set_default_dtype(torch.float32)
