"""Several optimizers with callbacks, schedules and everything else that uses an optimizer."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from ground.several_optimizers import QUIET, adamw, by_hand, is_matrix, learner_of, muon, net, same
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam, AdamW, lr_scheduler

from callbacks import (
    EMA,
    SAM,
    Callback,
    Checkpoint,
    ClosureStep,
    GradientAccumulation,
    GradientClip,
    LeanStep,
    LearnerWarning,
    LRMonitor,
    MixedPrecision,
    Optimizers,
    ParamScheduler,
    ReduceLROnPlateau,
    TorchScheduler,
    WholeStep,
)
from callbacks.schedule.annealers import cos
from learner import Data, Learner
from learner.engine.groups import by_children

# With other users of an optimizer


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [ParamScheduler({"lr": cos(1.0, 0.0)}, relative=True), LRMonitor()],
        lambda: [TorchScheduler(partial(lr_scheduler.StepLR, step_size=1))],
        lambda: [
            TorchScheduler(
                partial(lr_scheduler.OneCycleLR, max_lr=[0.1, 0.2], total_steps=40, cycle_momentum=False),
                every="1 step",
            )
        ],
        lambda: [ReduceLROnPlateau("train_loss", patience=0, min_delta=10.0)],
        lambda: [GradientAccumulation(2), GradientClip(0.1)],
        lambda: [SAM()],
        lambda: [EMA()],
        lambda: [ClosureStep()],
        lambda: [MixedPrecision("fp16")],
        lambda: [MixedPrecision("bf16")],
    ],
    ids=lambda make: type(make()[0]).__name__,
)
@pytest.mark.filterwarnings("ignore:TorchScheduler. the schedule is longer")
def test_callbacks_work_and_a_run_that_is_killed_resumes_with_the_same_bits(callbacks, tmp_path):
    whole = learner_of(*callbacks(), Checkpoint(tmp_path / "whole", every="1 step"))
    whole.fit(3)
    crashed = learner_of(*callbacks(), Checkpoint(tmp_path / "resumed", every="1 step"), Crash(8))
    with pytest.raises(ZeroDivisionError):
        crashed.fit(3)
    resumed = learner_of(*callbacks(), Checkpoint(tmp_path / "resumed", every="1 step"))
    resumed.fit(3, resume="must")
    assert same(resumed.model, whole.model)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.02, 0.01]


def test_each_group_has_its_rate_in_the_history():
    learn = learner_of(LRMonitor())
    learn.fit(1)
    assert (learn.results["lr"], learn.results["lr_0"], learn.results["lr_1"]) == (0.02, 0.02, 0.01)


def test_a_schedule_of_the_learner_keeps_the_ratio_of_the_rates():
    rates = []

    class Rates(Callback):
        def before_step(self, learn):
            rates.append([group["lr"] for group in learn.optimizer.param_groups])

    learn = learner_of(Rates)
    learn.fit_one_cycle(2, 0.2)
    assert all(two == pytest.approx(one / 2) for one, two in rates)
    assert max(one for one, _ in rates) == pytest.approx(0.2)


def test_a_search_for_a_rate_keeps_the_ratio_and_leaves_no_trace():
    learn = learner_of()
    before = copy.deepcopy(learn.model.state_dict())
    learn.lr_find(n_steps=20)
    assert [group["lr"] for group in learn.optimizer.param_groups] == [0.02, 0.01]
    assert all(torch.equal(before[name], each) for name, each in learn.model.state_dict().items())
    assert not len(learn.optimizer.state)


def test_layer_groups_weight_decay_and_freezing():
    learn = learner_of(splitter=by_children, decay_norms=False)
    found = [
        (group["layer_group"], len(group["params"]), group["weight_decay"])
        for group in learn.optimizer.param_groups
    ]
    assert found == [(0, 1, 0.1), (1, 1, 0.1), (0, 1, 0.0), (1, 1, 0.0)]
    learn.freeze()
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit_one_cycle(1, slice(1e-3, 1e-2))
    moved = [name for name, each in learn.model.state_dict().items() if not torch.equal(before[name], each)]
    assert moved == ["2.weight", "2.bias"]


def test_layers_that_are_unfrozen_go_to_the_optimizers_of_their_rules():
    model = net()
    model[0].requires_grad_(False)
    learn = learner_of(model=model, splitter=None)
    learn.unfreeze()
    sizes = [[len(group["params"]) for group in member.param_groups] for member in learn.optimizer.members]
    assert sizes == [[1, 1], [1, 1]]


def test_an_optimizer_whose_parameters_are_all_frozen_is_made_when_they_are_unfrozen(recwarn):
    model = net()
    model[0].requires_grad_(False)
    body = (partial(SGD, lr=0.1), lambda name, p: name.startswith("0."))
    learn = learner_of(model=model, optimizer=[body, adamw])
    assert [type(each) for each in learn.optimizer.members] == [AdamW]
    learn.unfreeze()
    assert [type(each) for each in learn.optimizer.members] == [SGD, AdamW]
    assert not [str(each.message) for each in recwarn if isinstance(each.message, LearnerWarning)]


def test_a_closure_is_passed_to_the_members_that_take_one():
    model = net()
    given = [LBFGS(model[0].parameters(), max_iter=3), SGD(model[2].parameters(), lr=0.01)]
    learn = learner_of(ClosureStep, optimizer=given, model=model)
    learn.fit(2)
    losses = learn.history["train_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("callbacks", [[], [LeanStep], [SAM]], ids=["none", "LeanStep", "SAM"])
def test_a_member_that_needs_a_closure_is_refused_before_the_first_batch(callbacks):
    model = net()
    before = copy.deepcopy(model.state_dict())
    given = [SGD(model[0].parameters(), lr=0.1), LBFGS(model[2].parameters())]
    learn = learner_of(*callbacks, optimizer=given, model=model)
    with pytest.raises(TypeError, match=r"SGD \+ LBFGS needs a closure .*ClosureStep\(\)"):
        learn.fit(1)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::callbacks.LearnerWarning")
@pytest.mark.parametrize("fast", [LeanStep, partial(WholeStep, "eager")])
def test_the_fast_steps_end_with_the_same_bits(fast):
    learn = learner_of(fast())
    learn.fit(3)
    assert same(learn.model, by_hand(3))


def test_a_group_that_is_added_leaves_the_others_and_their_schedules_in_place():
    class Add(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                new = nn.Parameter(torch.ones(1, 1))
                learn.optimizer.members[0].add_param_group({"params": [new], "lr": 0.5})

    learn = learner_of(ParamScheduler({"lr": cos(1.0, 0.5)}, relative=True), Add)
    groups = learn.optimizer.param_groups
    learn.fit(2)
    assert [id(each) for each in learn.optimizer.param_groups[:2]] == [id(each) for each in groups]
    assert [group["lr"] for group in learn.optimizer.param_groups[:2]] == [0.02, 0.01]
    rates = [group["lr"] for group in learn.optimizer.param_groups]
    learn.remove_callbacks(ParamScheduler, Add)
    learn.fit_one_cycle(1, 0.1)
    assert [group["lr"] for group in learn.optimizer.param_groups] == rates


def test_the_parameters_of_a_loss_have_names_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, preds, targets):
            return F.mse_loss(preds * self.scale, targets)

    names = []
    given = [
        (partial(SGD, lr=0.1), lambda name, p: names.append(name) or name.startswith("loss_func")),
        adamw,
    ]
    learn = Learner(net(), Data(line_batches(2)), Scaled(), given, defaults=QUIET)
    assert "loss_func.scale" in names
    assert learn.optimizer.members[0].param_groups[0]["params"] == [learn.loss_func.scale]


@pytest.mark.parametrize("other", [[SGD], partial(SGD, lr=0.1), SGD, Optimizers((muon, is_matrix), adamw)])
def test_what_is_assigned_must_be_an_optimizer(other):
    learn = learner_of()
    learn.optimizer = other
    for act in (lambda: learn.fit(1), learn.check):
        with pytest.raises(TypeError, match=r"learn\.optimizer is .*assign an optimizer"):
            act()


def test_another_optimizer_may_take_the_place_in_mid_fit():
    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer = Optimizers((muon, is_matrix), adamw)(learn.model.named_parameters())

    learn = learner_of(Replace, LRMonitor(), optimizer=partial(SGD, lr=0.1))
    learn.fit(2)
    assert learn.results["lr_1"] == 0.01


@pytest.mark.filterwarnings("error")
def test_a_scheduler_does_not_miss_the_step_of_a_member():
    class First(Callback):
        def step(self, learn):
            learn.optimizer.members[0].step()

    learner_of(First, TorchScheduler(partial(lr_scheduler.StepLR, step_size=1))).fit(2)


def test_a_lean_step_steps_each_member_in_its_own_way():
    given = [(partial(SGD, lr=0.1, momentum=0.9), is_matrix), partial(Adam, lr=0.01)]
    schedule = partial(TorchScheduler, partial(lr_scheduler.StepLR, step_size=1))
    plain, lean = learner_of(schedule(), optimizer=given), learner_of(schedule(), LeanStep(), optimizer=given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lean.fit(3)
    plain.fit(3)
    assert same(plain.model, lean.model)
    assert lean.callbacks[LeanStep].fallback is None


def test_a_lean_step_calls_the_ordinary_step_of_a_member_that_it_does_not_know():
    learn = learner_of(LeanStep())
    with pytest.warns(LearnerWarning, match="the optimizer is Muon"):
        learn.fit(2)
    assert same(learn.model, by_hand(2))


@pytest.mark.parametrize("is_one", [True, False])
def test_a_lean_step_calls_the_hooks_on_the_step_of_several(is_one):
    calls, rule = [], [] if is_one else [(partial(SGD, lr=0.2), is_matrix)]
    learn = learner_of(LeanStep(), optimizer=[*rule, partial(SGD, lr=0.1)])
    learn.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    with pytest.warns(LearnerWarning, match="hooks are registered on the step of Optimizers"):
        learn.fit(1)
    assert len(calls) == 4


def test_check_finds_nothing_wrong(capsys):
    report = learner_of().check()
    assert report.ok
    assert not report.warnings
    assert report.facts["optimizer"] == "Muon + AdamW, lr 0.02, 0.01, holds 4 of 4 trainable tensors"
