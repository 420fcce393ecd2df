"""Optimizers that are not part of torch, and optimizers of callbacks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from resumed import Crash
from torch import nn
from torch.optim import SGD, lr_scheduler
from upper.foreign_optimizers import Both, learner_of, same, weights

from callbacks import (
    SAM,
    ChannelsLast,
    Checkpoint,
    GradientAccumulation,
    GradientClip,
    LeanStep,
    LRMonitor,
    MixedPrecision,
    ParamScheduler,
    TorchScheduler,
    WholeStep,
)
from callbacks.schedule.annealers import cos


class Lookahead:
    """Slow weights that follow the fast ones (Zhang et al. 2019). The state dict has more keys."""

    def __init__(self, parameters):
        self.inner = SGD(parameters, lr=0.05, momentum=0.9)
        self.n_steps = 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    param_groups = property(lambda self: self.inner.param_groups)
    state = property(lambda self: self.inner.state)
    zero_grad = property(lambda self: self.inner.zero_grad)

    @torch.no_grad()
    def step(self):
        self.inner.step()
        self.n_steps += 1
        if self.n_steps % 3 == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            for slow, each in zip(self.slow, fast, strict=True):
                each.copy_(slow.lerp_(each, 0.5))

    def state_dict(self):
        return {**self.inner.state_dict(), "slow": list(self.slow), "n_steps": self.n_steps}

    def load_state_dict(self, state):
        self.inner.load_state_dict({name: state[name] for name in ("state", "param_groups")})
        self.slow, self.n_steps = [each.clone() for each in state["slow"]], state["n_steps"]


class Noisy(SGD):
    """An optimizer with noise from its own generator, which its state dict contains beside the usual keys."""

    def __init__(self, params, lr=0.05):
        super().__init__(params, lr)
        self.generator = torch.Generator().manual_seed(3)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for each in group["params"]:
                each.grad += 0.1 * torch.randn(each.shape, generator=self.generator)
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        super().load_state_dict({name: state[name] for name in ("state", "param_groups")})
        self.generator.set_state(state["generator"])


class Progressive(SGD):
    """An optimizer with its progress in the settings of its groups, like Prodigy."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["n_steps"] = group.get("n_steps", 0) + 1
        return super().step(closure)


class Listed(Both):
    """An optimizer with its state in a list."""

    def state_dict(self):
        return [one.state_dict() for one in self.each]

    def load_state_dict(self, state):
        for one, its in zip(self.each, state, strict=True):
            one.load_state_dict(its)


KINDS = [Both, Lookahead, Noisy, partial(Progressive, lr=0.1), Listed]
NAMES = ["Both", "Lookahead", "Noisy", "Progressive", "Listed"]


@pytest.mark.parametrize("optimizer", KINDS, ids=NAMES)
def test_a_run_that_is_killed_resumes_with_the_same_bits(optimizer, tmp_path):
    schedule = partial(ParamScheduler, {"lr": cos(0.05, 0.01)})
    whole = learner_of(schedule(), Checkpoint(tmp_path / "whole", every="1 step"), optimizer=optimizer)
    whole.fit(3)
    saving = Checkpoint(tmp_path / "resumed", every="1 step")
    crashed = learner_of(schedule(), saving, Crash(9), optimizer=optimizer)
    with pytest.raises(ZeroDivisionError):
        crashed.fit(3)
    resumed = learner_of(schedule(), Checkpoint(tmp_path / "resumed", every="1 step"), optimizer=optimizer)
    resumed.fit(3, resume="must")
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("optimizer", KINDS, ids=NAMES)
def test_a_fit_in_a_sandbox_leaves_no_trace(optimizer, capsys):
    learn, other = learner_of(optimizer=optimizer), learner_of(optimizer=optimizer)
    learn.fit(1)
    learn.lr_find(n_steps=15)
    assert learn.check().ok
    kept = learn.snapshot()
    learn.fit(1)
    learn.restore(kept)
    learn.fit(1)
    other.fit(1)
    other.fit(1)
    assert same(weights(learn), weights(other))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: SAM(),
        lambda: GradientAccumulation(2),
        lambda: GradientClip(0.1),
        lambda: MixedPrecision("fp16"),
        lambda: LRMonitor(),
        lambda: ChannelsLast(),
        lambda: LeanStep(),
        lambda: WholeStep("eager"),
    ],
    ids=lambda make: type(make()).__name__,
)
@pytest.mark.filterwarnings("ignore::callbacks.LearnerWarning")
def test_callbacks_train_with_an_optimizer_that_is_not_torchs(callback):
    learn = learner_of(callback())
    before = weights(learn)
    learn.fit(2)
    assert not any(map(torch.equal, before, weights(learn)))


def test_progress_kept_in_the_settings_survives_the_end_of_a_schedule():
    for callback in (
        ParamScheduler({"lr": cos(0.1, 0.01)}),
        TorchScheduler(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4), every="1 step"),
    ):
        learn = learner_of(callback, optimizer=partial(Progressive, lr=0.1, momentum=0.9))
        before = set(learn.optimizer.param_groups[0])
        learn.fit(1)
        group = learn.optimizer.param_groups[0]
        assert (group["n_steps"], group["lr"], group["momentum"]) == (4, 0.1, 0.9)
        assert set(group) == before | {"n_steps"}


def test_a_setting_changed_by_a_scheduler_of_the_user_is_restored():
    class Decay(lr_scheduler.LRScheduler):
        def get_lr(self):
            for group in self.optimizer.param_groups:
                group["weight_decay"] = group["weight_decay"] + 0.1
            return [group["lr"] for group in self.optimizer.param_groups]

    learn = learner_of(TorchScheduler(Decay), optimizer=partial(SGD, lr=0.1, weight_decay=0.5))
    learn.fit(3)
    assert learn.optimizer.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize("name", ["load_state_dict", "state_dict", "zero_grad"])
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_method_missing_from_an_optimizer_is_reported_when_the_learner_is_made(name, is_ready):
    class Part(Both):
        def __getattribute__(self, wanted):
            if wanted == name:
                raise AttributeError(wanted)
            return super().__getattribute__(wanted)

    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=f"it has no {name}"):
        learner_of(optimizer=Part(model.parameters()) if is_ready else Part, model=model)


def test_a_scheduler_of_torch_names_its_replacement():
    with pytest.raises(TypeError, match=r"this is Both\. Use ParamScheduler"):
        learner_of(TorchScheduler(partial(lr_scheduler.StepLR, step_size=1))).fit(1)


def test_a_snapshot_of_another_optimizer_is_refused():
    one, other = learner_of(), learner_of(optimizer=Lookahead)
    kept = one.snapshot()
    with pytest.raises(ValueError, match="another optimizer"):
        other.restore(kept)


class Plain:
    """An optimizer whose rate has another name, and whose state is not per parameter."""

    def __init__(self, parameters):
        self.param_groups = [{"params": list(parameters), "step_size": 0.1}]
        self.state = {"n_steps": 0, "names": {"last": torch.ones(2)}}

    @torch.no_grad()
    def step(self):
        self.state["n_steps"] += 1
        for each in self.param_groups[0]["params"]:
            each.add_(each.grad, alpha=-0.1)

    def zero_grad(self):
        for each in self.param_groups[0]["params"]:
            each.grad = None

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = dict(state)


def test_an_optimizer_without_a_rate_and_with_a_state_of_its_own_form_trains(tmp_path, capsys):
    callbacks = LRMonitor(), ChannelsLast(), GradientClip(1.0), Checkpoint(tmp_path)
    learn = learner_of(*callbacks, optimizer=Plain)
    assert learn.check().ok
    learn.fit(2)
    learn.restore(learn.snapshot())
    assert learn.optimizer.state["n_steps"] == 8
    with pytest.raises(ValueError, match="lr_find: Plain has a parameter group without 'lr'"):
        learn.lr_find()
