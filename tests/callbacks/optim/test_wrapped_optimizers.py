"""Optimizers that wrap another one, as public implementations of SAM and Lookahead do."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ground.several_optimizers import learner_of, net, same
from resumed import Interrupt
from tiny import line_batches
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from callbacks import Checkpoint, TorchScheduler

HALVES = torch.optim.lr_scheduler.ExponentialLR


class Slow(Optimizer):
    """Every second step, move the weights halfway back; the inner optimizer does the steps."""

    def __init__(self, parameters):
        self.inner = Adam(parameters, lr=0.05)
        super().__init__(self.inner.param_groups, {})
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        self.inner.step()
        for parameter in self.param_groups[0]["params"]:
            slow = self.state[parameter].setdefault("slow", parameter.clone())
            slow.lerp_(parameter, 0.5)
            parameter.copy_(slow)


class SharingGroups(Slow):
    """The same with a list of its own, which holds the same groups."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.param_groups = list(self.inner.param_groups)


class SharingState(Slow):
    """The same with the state of both in one place."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.state = self.inner.state


class SavingAll(Slow):
    """The same with a state dict of its own that covers both."""

    def state_dict(self):
        return {"slow": super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict["slow"])
        self.inner.load_state_dict(state_dict["inner"])
        self.param_groups = self.inner.param_groups


KINDS = [Slow, SharingGroups, SharingState, SavingAll]


def by_hand(kind, n_epochs: int):
    model = net()
    optimizer = kind(model.parameters())
    schedule = HALVES(optimizer, 0.5)
    for _ in range(n_epochs):
        for inputs, targets in line_batches(4):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize("at", [2, 5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_a_wrapped_optimizer_resumes_as_the_loop_by_hand(kind, at, tmp_path):
    def make(*callbacks):
        halving = TorchScheduler(partial(HALVES, gamma=0.5))
        return learner_of(Checkpoint(tmp_path), halving, *callbacks, optimizer=kind)

    make(Interrupt(at)).fit(3, resume="auto")
    resumed = make()
    resumed.fit(3, resume="must")
    assert same(resumed.model, by_hand(kind, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sandbox_leaves_no_trace_in_a_wrapped_optimizer(kind):
    learn = learner_of(optimizer=kind)
    with learn.sandbox():
        learn.fit(1)
    learn.fit(1)
    with learn.sandbox():
        learn.fit(1)
    learn.fit(1)
    alone = learner_of(optimizer=kind)
    alone.fit(2)
    assert same(learn.model, alone.model)


def test_a_wrapper_within_several_optimizers_resumes(tmp_path):
    def make(*callbacks):
        given = [(Slow, lambda name, each: each.ndim == 2), partial(SGD, lr=0.1)]
        return learner_of(Checkpoint(tmp_path), *callbacks, optimizer=given)

    whole = learner_of(optimizer=[(Slow, lambda name, each: each.ndim == 2), partial(SGD, lr=0.1)])
    whole.fit(2)
    make(Interrupt(3)).fit(2, resume="auto")
    resumed = make()
    resumed.fit(2, resume="must")
    assert same(resumed.model, whole.model)


def test_a_state_that_the_wrapper_saves_itself_is_saved_once():
    learn = learner_of(optimizer=SavingAll)
    learn.fit(1)
    assert learn.snapshot()["wrapped"] == {}
