"""Several optimizers as one, compared with hand-written loops, and with everything that uses an optimizer."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from resumed import Crash, Interrupt
from schedule_free import ScheduleFreeSGD
from tiny import line_batches, notes
from torch import nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Muon, SparseAdam, lr_scheduler

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
    Metrics,
    MixedPrecision,
    Optimizers,
    ParamScheduler,
    Recorder,
    ReduceLROnPlateau,
    TorchScheduler,
    WholeStep,
    ZeroGrad,
)
from callbacks.schedule.annealers import cos
from learner import Data, Learner
from learner.engine.groups import by_children
from learner.recipes.recipe import load_recipe
from learner.recipes.writer import learner_to_recipe

QUIET = (ZeroGrad, Metrics, Recorder)
muon, adamw = partial(Muon, lr=0.02), partial(AdamW, lr=0.01)


def is_matrix(name, parameter):
    return parameter.ndim == 2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def learner_of(*callbacks, optimizer=None, model=None, **options) -> Learner:
    given = [(muon, is_matrix), adamw] if optimizer is None else optimizer
    data = Data(line_batches(4), line_batches(2))
    return Learner(model or net(), data, F.mse_loss, given, callbacks, defaults=QUIET, **options)


def by_hand(n_epochs: int, model=None, make=None) -> nn.Module:
    """The same training as a loop with two optimizers."""
    model = model or net()
    matrices = [each for each in model.parameters() if each.ndim == 2]
    others = [each for each in model.parameters() if each.ndim != 2]
    both = make(model) if make else [muon(matrices), adamw(others)]
    for inputs, targets in n_epochs * line_batches(4):
        F.mse_loss(model(inputs), targets).backward()
        for each in both:
            each.step()
        for each in both:
            each.zero_grad()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)


# Like the loop with two optimizers


def test_muon_for_matrices_and_adamw_for_the_rest_is_one_line_with_the_bits_of_the_loop():
    learn = learner_of(optimizer=Optimizers((muon, is_matrix), adamw))
    learn.fit(3)
    assert same(learn.model, by_hand(3))
    assert [type(each) for each in learn.optimizer.members] == [Muon, AdamW]


def test_ready_optimizers_over_two_models_train_both():
    def make(model):
        return [SGD(model[0].parameters(), lr=0.1, momentum=0.9), Adagrad(model[2].parameters(), lr=0.1)]

    model = net()
    learn = learner_of(optimizer=make(model), model=model)
    learn.fit(2)
    assert same(model, by_hand(2, make=make))


def test_rules_get_the_names_of_parameters():
    head = (partial(SGD, lr=0.1), lambda name, parameter: name.startswith("2."))
    learn = learner_of(optimizer=[head, partial(Adam, lr=0.01)])
    sizes = [[len(each["params"]) for each in member.param_groups] for member in learn.optimizer.members]
    assert sizes == [[2], [2]]
    assert learn.optimizer.members[0].param_groups[0]["params"][0] is learn.model[2].weight


def test_a_sparse_embedding_has_its_own_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(8, 4, sparse=True), nn.Flatten(), nn.Linear(4, 1))
    data = Data([(torch.tensor([[1], [2], [3]]), torch.ones(3, 1))] * 3)
    sparse = (SparseAdam, lambda name, parameter: name == "0.weight")
    learn = Learner(model, data, F.mse_loss, [sparse, Adam], defaults=QUIET)
    before = copy.deepcopy(model.state_dict())
    learn.fit(1)
    assert all(not torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_an_optimizer_of_any_kind_may_be_a_member():
    class Plain:
        """What an optimizer needs, and no more."""

        def __init__(self, params):
            self.param_groups = [{"params": list(params), "lr": 0.1}]

        @torch.no_grad()
        def step(self):
            for each in self.param_groups[0]["params"]:
                each.add_(each.grad, alpha=-self.param_groups[0]["lr"])

        def zero_grad(self):
            for each in self.param_groups[0]["params"]:
                each.grad = None

        def state_dict(self):
            return {"lr": self.param_groups[0]["lr"]}

        def load_state_dict(self, state):
            self.param_groups[0]["lr"] = state["lr"]

    learn = learner_of(optimizer=[(Plain, is_matrix), partial(SGD, lr=0.1)])
    kept = learn.snapshot()
    learn.fit(1)
    learn.restore(kept)
    learn.fit(1)
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    for inputs, targets in line_batches(4):
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(learn.model, model)


def test_stepping_one_member_does_not_move_the_others():
    class Alternate(Callback):
        def step(self, learn):
            learn.optimizer.members[learn.batch_idx % 2].step()

    learn = learner_of(Alternate)
    model = net()
    both = [
        muon(p for p in model.parameters() if p.ndim == 2),
        adamw(p for p in model.parameters() if p.ndim != 2),
    ]
    for number, (inputs, targets) in enumerate(line_batches(4)):
        F.mse_loss(model(inputs), targets).backward()
        both[number % 2].step()
        model.zero_grad()
    learn.fit(1)
    assert same(learn.model, model)


# As one optimizer


def test_groups_and_state_are_the_members_own():
    learn = learner_of()
    learn.fit(1)
    one, two = learn.optimizer.members
    assert [id(each) for each in learn.optimizer.param_groups] == [
        id(each) for each in (*one.param_groups, *two.param_groups)
    ]
    assert isinstance(learn.optimizer, torch.optim.Optimizer)
    state = learn.optimizer.state
    assert {*state} == {*one.state, *two.state}
    assert state[learn.model[0].weight] is one.state[learn.model[0].weight]
    assert state.get(torch.zeros(1)) is None
    state.clear()
    assert not one.state
    assert not two.state


def test_an_added_parameter_goes_to_the_optimizer_of_its_rule():
    model = net()
    optimizer = Optimizers((muon, is_matrix), adamw)(model.named_parameters())
    new = nn.Linear(2, 2)
    optimizer.add_param_group({"params": list(new.parameters()), "lr": 0.5})
    assert [len(each.param_groups) for each in optimizer.members] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.5, 0.01, 0.5]


def test_ready_members_do_not_guess_where_a_new_parameter_belongs():
    model = net()
    optimizer = Optimizers(SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"no rule matches .*add_param_group of the member"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_has_the_same_future(clone):
    learn = learner_of(
        optimizer=[(partial(SGD, lr=0.1, momentum=0.9), is_matrix), partial(SGD, lr=0.2, momentum=0.9)]
    )
    learn.fit(1)
    other = clone(learn.optimizer)
    for one, two in zip(learn.optimizer.param_groups, other.param_groups, strict=True):
        for p, q in zip(one["params"], two["params"], strict=True):
            assert q is not p
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    learn.optimizer.step()
    other.step()
    for one, two in zip(learn.optimizer.param_groups, other.param_groups, strict=True):
        assert all(map(torch.equal, one["params"], two["params"]))


def test_a_subclass_stays_one_and_keeps_its_attributes():
    class Counting(Optimizers):
        n_steps = 0

        def step(self, closure=None):
            self.n_steps += 1
            return super().step(closure)

    learn = learner_of(optimizer=Counting((muon, is_matrix), adamw))
    learn.fit(1)
    assert learn.optimizer.n_steps == 4
    assert copy.deepcopy(learn.optimizer).n_steps == 4


def test_muon_for_all_parameters_is_refused_with_the_line_that_splits_them():
    with pytest.raises(ValueError, match="Muon only supports 2D") as caught:
        learner_of(optimizer=muon)
    assert "partial(AdamW" in notes(caught.value)


def test_hooks_of_the_step_and_of_the_state_dict_are_called():
    model, calls = net(), []
    optimizer = Optimizers((muon, is_matrix), adamw)(model.named_parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append("step"))
    optimizer.members[1].register_step_post_hook(lambda *_: calls.append("member"))
    optimizer.register_state_dict_post_hook(lambda one, state: calls.append("state"))
    optimizer.register_load_state_dict_post_hook(lambda one: calls.append("load"))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["member", "step", "state", "load"]


# What is refused


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "at least one"),
        ([partial(SGD, lr=0.1), adamw], ValueError, "argument 0, SGD, has no rule"),
        ([(muon, is_matrix, 3), adamw], TypeError, "argument 0 is"),
        (["adam", adamw], TypeError, "argument 0 is 'adam'"),
        (
            [(partial(SGD, lr=0.1), lambda name, p: True), (adamw, is_matrix)],
            ValueError,
            "both match 0.weight, 2.wei",
        ),
        ([(partial(SGD, lr=0.1), is_matrix)], ValueError, "no rule matches 0.bias, 2.bias"),
        ([(muon, is_matrix), lambda params: 3], TypeError, "made 3, which is not an optimizer"),
        ([(muon, lambda name: True), adamw], TypeError, "takes 1 positional argument"),
        ([(partial(SGD, lr=-1.0), is_matrix), adamw], ValueError, "lr must be a finite number > 0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(given, error, words):
    with pytest.raises(error, match=words):
        learner_of(optimizer=given)


def test_a_parameter_in_two_members_is_refused():
    model = net()
    with pytest.raises(ValueError, match=r"SGD and Adam both hold a parameter of shape \(1, 4\)"):
        Optimizers(SGD(model[2].parameters(), lr=0.1), Adam(model.parameters()))


def test_the_same_optimizer_twice_is_refused():
    one = SGD(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="SGD and SGD both hold"):
        Optimizers(one, one)


def test_a_rule_that_matches_nothing_is_ignored_with_a_warning():
    with pytest.warns(LearnerWarning, match="SGD is left out, since its rule matches no parameter"):
        learn = learner_of(optimizer=[(partial(SGD, lr=0.1), lambda name, p: p.ndim == 4), adamw])
    assert [type(each) for each in learn.optimizer.members] == [AdamW]


def test_factories_without_parameters_yet_show_that():
    with pytest.raises(AttributeError, match="pass it to a Learner"):
        Optimizers((muon, is_matrix), adamw).step()


# With what else uses an optimizer


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


def test_layers_that_are_thawed_go_to_the_optimizers_of_their_rules():
    model = net()
    model[0].requires_grad_(False)
    learn = learner_of(model=model, splitter=None)
    learn.unfreeze()
    sizes = [[len(group["params"]) for group in member.param_groups] for member in learn.optimizer.members]
    assert sizes == [[1, 1], [1, 1]]


def test_an_optimizer_whose_parameters_are_all_frozen_is_made_when_they_are_thawed(recwarn):
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


# Snapshots and checkpoints


def test_a_snapshot_and_a_sandbox_restore_all_members():
    learn = learner_of()
    learn.fit(1)
    kept = learn.snapshot()
    with learn.sandbox():
        learn.fit(1)
    learn.fit(1)
    after = copy.deepcopy(learn.model.state_dict())
    learn.restore(kept)
    learn.fit(1)
    assert all(torch.equal(after[name], each) for name, each in learn.model.state_dict().items())


@pytest.mark.parametrize("given", [None, partial(SGD, lr=0.1)], ids=["several", "one"])
def test_a_sandbox_removes_a_group_that_is_added_in_it(given):
    learn = learner_of(optimizer=given)
    n_groups = len(learn.optimizer.param_groups)
    with learn.sandbox():
        member = learn.optimizer.members[1] if given is None else learn.optimizer
        member.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(learn.optimizer.param_groups) == n_groups
    learn.fit(1)


def test_a_group_that_is_added_to_a_member_in_mid_fit_is_trained_and_saved(tmp_path):
    new = nn.Parameter(torch.ones(1))

    class Add(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer.members[1].add_param_group({"params": [new]})

        def after_backward(self, learn):
            new.grad = torch.ones(1)

    learn = learner_of(Add)
    learn.fit(2)
    assert new.item() != 1
    assert new in learn.optimizer.state
    assert len(learn.optimizer.state_dict()["members"][1]["param_groups"]) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda: [(partial(SGD, lr=0.1), is_matrix), adamw],
        lambda: [(adamw, lambda name, p: p.ndim != 2), muon],
        lambda: adamw,
    ],
    ids=["another kind", "another order", "one"],
)
def test_a_checkpoint_of_other_members_is_refused_by_name(other, tmp_path):
    learn = learner_of()
    learn.fit(1)
    path, kept = learn.save(tmp_path / "step.pt"), learn.snapshot()
    stranger = learner_of(optimizer=other())
    before = copy.deepcopy(stranger.model.state_dict())
    with pytest.raises(ValueError, match=r"Muon \+ AdamW"):
        stranger.load(path)
    with pytest.raises(ValueError, match="another optimizer"):
        stranger.restore(kept)
    assert all(torch.equal(before[name], each) for name, each in stranger.model.state_dict().items())


def test_a_run_that_is_interrupted_in_the_middle_of_an_epoch_resumes_with_the_same_bits(tmp_path):
    mixed = [(partial(ScheduleFreeSGD, lr=0.05), is_matrix), adamw]
    whole = learner_of(optimizer=mixed)
    whole.fit(3)
    interrupted = learner_of(Checkpoint(tmp_path), Interrupt(9), optimizer=mixed)
    interrupted.fit(3)
    resumed = learner_of(Checkpoint(tmp_path), optimizer=mixed)
    resumed.fit(3, resume="must")
    assert same(resumed.model, whole.model)


# Recipes

MODELS = """
from functools import partial
from torch import nn
from torch.optim import SGD, AdamW
from callbacks import Optimizers

def both(parameters, lr=0.1):
    weights = partial(SGD, lr=lr), lambda name, p: name.endswith("weight")
    return Optimizers(weights, partial(AdamW, lr=lr / 10))
"""
RECIPE = """
recipe: two optimizers
data: digits
model: [{use: Linear, in_features: 64, out_features: 10}]
loss: cross_entropy
optimizer: {use: "two_optimizers.py:both", lr: 0.2}
fit: {epochs: 1}
"""


def test_a_recipe_names_a_function_that_returns_several(tmp_path):
    (tmp_path / "two_optimizers.py").write_text(MODELS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    learn = load_recipe(tmp_path / "recipe.yaml").build()
    assert [type(each) for each in learn.optimizer.members] == [SGD, AdamW]
    assert [group["lr"] for group in learn.optimizer.param_groups] == [0.2, 0.02]


def test_several_optimizers_cannot_be_written_as_a_recipe_and_the_message_shows_what_to_write():
    with pytest.raises(ValueError, match=r"(?s)several optimizers \(Muon \+ AdamW\)\. .*models\.py:make"):
        learner_to_recipe(learner_of(), 1, data="article")
