"""Modules, optimizers and schedulers that a callback or a subclass of the learner declares in `state`."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, DevicePlacement, LearnerWarning, When
from learner import Data, Learner

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
SGD = partial(torch.optim.SGD, lr=0.05)


class Critic(Callback):
    """A second network with its own optimizer and schedule, trained together with the model."""

    state = ("critic", "optimizer", "schedule")

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def after_step(self, learn: Any) -> None:
        (self.critic(learn.inputs[0]) - 1).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()


class Ensemble(Critic):
    """The same parts in a list and a dict."""

    state = ("critics", "optimizers")

    def __init__(self) -> None:
        Callback.__init__(self)
        self.critics = [nn.Linear(3, 1), nn.Linear(3, 1)]
        self.optimizers = {"a": torch.optim.Adam(self.critics[0].parameters(), lr=0.1)}

    def after_step(self, learn: Any) -> None:
        (self.critics[0](learn.inputs[0]) - 1).square().mean().backward()
        self.optimizers["a"].step()
        self.optimizers["a"].zero_grad()


class Adversary(Learner):
    """The same parts as attributes of the learner."""

    state = ("critic", "optimizer_of_critic", "n_calls")

    def __init__(self, *args: Any, **options: Any) -> None:
        self.critic, self.n_calls = nn.Linear(1, 1), 0
        self.optimizer_of_critic = torch.optim.SGD(self.critic.parameters(), lr=0.1, momentum=0.9)
        super().__init__(*args, **options)

    def compute_loss(self) -> None:
        super().compute_loss()
        if self.training:
            self.n_calls += 1
            self.critic(self.preds.detach()).square().mean().backward()
            self.optimizer_of_critic.step()
            self.optimizer_of_critic.zero_grad()


class Crash(Callback):
    def after_step(self, learn: Any) -> None:
        if learn.global_step == 5:
            raise SystemExit


def make(kind: Any, *callbacks: Any) -> Learner:
    torch.manual_seed(0)
    is_learner = issubclass(kind, Learner)
    given = [*callbacks] if is_learner else [kind(), *callbacks]
    data = Data.from_tensors(INPUTS, INPUTS.sum(1, keepdim=True), 8, seed=0)
    return (kind if is_learner else Learner)(nn.Linear(3, 1), data, F.mse_loss, SGD, given)


def state(learn: Learner) -> list[Any]:
    """Copies of the declared state: the tensors of the networks and a number."""
    critics = [each for each in learn.callbacks if isinstance(each, Critic)]
    owner: Any = critics[0] if critics else learn
    networks = owner.critics if isinstance(owner, Ensemble) else [owner.critic]
    tensors = [tensor.clone() for each in networks for tensor in each.state_dict().values()]
    return [*tensors, torch.tensor(getattr(owner, "n_calls", 0))]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", [Critic, Ensemble, Adversary])
def test_a_run_that_was_killed_ends_with_the_same_bits_of_what_is_declared(kind: Any, tmp_path: Path) -> None:
    whole = make(kind)
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(kind, Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(kind, Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert same(state(resumed), state(whole))


@pytest.mark.parametrize("kind", [Critic, Adversary])
def test_a_sandbox_restores_declared_state_in_the_same_objects(kind: Any) -> None:
    learn = make(kind)
    learn.fit(1)
    owner: Any = learn if kind is Adversary else learn.callbacks[kind]
    before, critic = state(learn), owner.critic
    with learn.sandbox():
        learn.fit(1)
        assert not same(state(learn), before)
    assert same(state(learn), before)
    assert owner.critic is critic


class Teacher(Callback):
    """A copy of the model, created if it is missing, that follows the model slowly."""

    state = ("teacher",)

    def before_fit(self, learn: Any) -> None:
        if not hasattr(self, "teacher"):
            self.teacher = copy.deepcopy(learn.model)

    def after_step(self, learn: Any) -> None:
        with torch.no_grad():
            for own, other in zip(self.teacher.parameters(), learn.model.parameters(), strict=True):
                own.lerp_(other, 0.5)


@pytest.mark.parametrize("trial", [Learner.check, Learner.lr_find, lambda learn: in_sandbox(learn)])
@pytest.mark.parametrize("kind", [Teacher, lambda: When(Teacher(), every="2 steps")])
def test_what_a_first_fit_in_a_sandbox_creates_is_created_again(trial: Any, kind: Any) -> None:
    def fitted(trial: Any) -> Any:
        torch.manual_seed(0)
        data = Data.from_tensors(INPUTS, INPUTS.sum(1, keepdim=True), 6, seed=0)
        learn = Learner(nn.Linear(3, 1), data, F.mse_loss, SGD, [kind()])
        trial(learn)
        learn.fit(1)
        return learn.callbacks[Teacher].teacher.weight

    assert torch.equal(fitted(trial), fitted(lambda learn: None))


def in_sandbox(learn: Learner) -> None:
    with learn.sandbox():
        learn.fit(1)


def test_a_sandbox_restores_gradients_and_modes_of_a_declared_module() -> None:
    learn = make(Critic)
    critic = learn.callbacks[Critic].critic.eval()
    with learn.sandbox():
        critic.train()
        critic(INPUTS).sum().backward()
    assert not critic.training
    assert all(each.grad is None for each in critic.parameters())


def test_declared_modules_are_placed_on_the_device_also_within_when() -> None:
    learn = make(Adversary, When(Critic(), start="1 epoch"), DevicePlacement("meta"))
    learn.callbacks[DevicePlacement].before_fit(learn)
    inner: Any = learn.callbacks.critic
    modules = [learn.critic, inner.critic]
    assert {each.device.type for module in modules for each in module.parameters()} == {"meta"}


def test_weights_that_a_declared_optimizer_trains_are_not_reported_as_untrained(recwarn: Any) -> None:
    model = nn.Linear(3, 1)

    class Second(Callback):
        state = ("optimizer",)

        def __init__(self) -> None:
            super().__init__()
            self.optimizer = torch.optim.SGD([model.bias], lr=0.1)

        def after_step(self, learn: Any) -> None:
            self.optimizer.step()
            self.optimizer.zero_grad()

    data = Data.from_tensors(INPUTS, INPUTS.sum(1, keepdim=True), 8, seed=0)
    Learner(model, data, F.mse_loss, SGD([model.weight]), [Second()]).fit(1)
    assert not [each for each in recwarn if issubclass(each.category, LearnerWarning)]


def test_the_state_of_another_network_is_refused_with_its_name() -> None:
    learn = make(Critic)
    snapshot = learn.snapshot()
    learn.callbacks[Critic].critic = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(1, 3\) in the state") as caught:
        learn.restore(snapshot)
    assert "Critic.critic" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("wrong", ["critic", ("model",), (1,), ("loop",)])
def test_a_state_other_than_a_tuple_of_own_names_is_refused_when_the_class_is_defined(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Mine\.state"):
        type("Mine", (Learner,), {"state": wrong})
