"""Several optimizers as one, compared with hand-written loops, and with everything that uses an optimizer."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from ground.several_optimizers import QUIET, adamw, by_hand, is_matrix, learner_of, muon, net, same
from tiny import line_batches, notes
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Muon, SparseAdam

from callbacks import (
    Callback,
    LearnerWarning,
    Optimizers,
)
from learner import Data, Learner

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
        """An optimizer with the methods that are needed, and no others."""

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
    with pytest.raises(ValueError, match=r"no rule matches .*add_param_group on one of the optimizers"):
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
def test_arguments_that_contradict_each_other_are_refused_by_name(given, error, words):
    with pytest.raises(error, match=words):
        learner_of(optimizer=given)


def test_a_parameter_in_two_members_is_refused():
    model = net()
    with pytest.raises(ValueError, match=r"SGD and Adam both have a parameter of shape \(1, 4\)"):
        Optimizers(SGD(model[2].parameters(), lr=0.1), Adam(model.parameters()))


def test_the_same_optimizer_twice_is_refused():
    one = SGD(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="SGD and SGD both have"):
        Optimizers(one, one)


def test_a_rule_that_matches_nothing_is_ignored_with_a_warning():
    with pytest.warns(LearnerWarning, match="SGD is left out, because its rule matches no parameter"):
        learn = learner_of(optimizer=[(partial(SGD, lr=0.1), lambda name, p: p.ndim == 4), adamw])
    assert [type(each) for each in learn.optimizer.members] == [AdamW]


def test_factories_without_parameters_yet_show_that():
    with pytest.raises(AttributeError, match="pass it to a Learner"):
        Optimizers((muon, is_matrix), adamw).step()
