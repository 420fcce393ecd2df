"""Layer groups, freezing, and rates per group."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import Learner
from learner.engine.groups import body_and_head, by_children, spread

ADAM = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    return nn.Sequential(body, nn.Linear(4, 4), nn.Linear(4, 1))


def split(model):
    return [model[0], model[1], [model[2].weight, model[2].bias]]


def make(model=None, **options) -> Learner:
    data = (torch.rand(16, 3), torch.rand(16, 1))
    options.setdefault("optimizer", ADAM)
    return Learner(model or make_model(), data, F.mse_loss, **options)


def trained(learn: Learner) -> list[str]:
    return [name for name, each in learn.model.named_parameters() if each.requires_grad]


def moved(learn: Learner, n_epochs: int = 1) -> list[str]:
    """The names of the parameters that a fit changes."""
    before = {name: each.detach().clone() for name, each in learn.model.named_parameters()}
    learn.fit(n_epochs)
    return [name for name, each in learn.model.named_parameters() if not torch.equal(each, before[name])]


def test_a_splitter_makes_the_optimizers_groups():
    learn = make(splitter=split)
    sizes = [(group["layer_group"], len(group["params"])) for group in learn.optimizer.param_groups]
    assert sizes == [(0, 4), (1, 2), (2, 2)]


def test_the_available_splitters():
    assert [len(group) for group in make(splitter=by_children).layer_groups] == [4, 2, 2]
    assert [len(group) for group in make(splitter=body_and_head).layer_groups] == [6, 2]


def test_biases_and_norms_can_be_excluded_from_weight_decay():
    learn = make(splitter=split, decay_norms=False)
    found = [
        (group["layer_group"], len(group["params"]), group["weight_decay"])
        for group in learn.optimizer.param_groups
    ]
    assert found == [(0, 1, 0.1), (0, 3, 0.0), (1, 1, 0.1), (1, 1, 0.0), (2, 1, 0.1), (2, 1, 0.0)]


def test_the_biases_of_recurrent_and_attention_layers_are_also_excluded():
    model = nn.ModuleDict({"lstm": nn.LSTM(2, 2), "attention": nn.MultiheadAttention(2, 1)})
    learn = make(model, decay_norms=False)
    decayed, spared = learn.optimizer.param_groups
    names = {id(each): name for name, each in model.named_parameters()}
    assert all("bias" in names[id(each)] for each in spared["params"])
    assert not any("bias" in names[id(each)] for each in decayed["params"])


def test_a_weight_in_two_groups_belongs_to_the_first():
    model = make_model()
    model[2].weight = nn.Parameter(torch.rand(1, 4))
    learn = make(model, splitter=lambda model: [[model[0], model[2].weight], model])
    assert [len(group["params"]) for group in learn.optimizer.param_groups] == [5, 3]


@pytest.mark.parametrize(
    ("splitter", "error", "words"),
    [
        (3, TypeError, "pass a function of the model"),
        (lambda model: [], ValueError, "returned no group"),
        (lambda model: [model[0], "head"], TypeError, "group 1 has 'head'"),
        (
            lambda model: [model[0], model[2]],
            ValueError,
            r"lack 1.weight, 1.bias, which would not be trained",
        ),
        (lambda model: [model, model[2]], ValueError, "all parameters of group 1 are in earlier groups"),
        (lambda model: [model, nn.Linear(1, 1)], ValueError, r"shape \(1, 1\) that is not in the model"),
        (lambda model: [model, [model[0].weight]], AttributeError, "weight"),
    ],
)
def test_an_invalid_splitter_is_refused(splitter, error, words):
    with pytest.raises(error, match=words):
        make(splitter=splitter)


def test_frozen_parameters_may_be_left_out_of_the_groups():
    model = make_model()
    model[1].requires_grad_(False)
    assert len(make(model, splitter=lambda model: [model[0], model[2]]).layer_groups) == 2


@pytest.mark.parametrize("options", [{"splitter": split}, {"decay_norms": False}])
def test_a_ready_optimizer_keeps_its_groups(options):
    model = make_model()
    with pytest.raises(TypeError, match=f"{next(iter(options))}.*the optimizer exists"):
        make(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_frozen_groups_do_not_change():
    learn = make(splitter=split)
    learn.fit(1)  # the moments of Adam would continue to move them
    learn.freeze(train_norms=False)
    assert moved(learn) == ["2.weight", "2.bias"]
    learn.freeze_to(1, train_norms=False)
    assert moved(learn) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    learn.unfreeze()
    assert len(moved(learn)) == 8


def test_norms_continue_to_train_in_frozen_groups():
    learn = make(splitter=split)
    learn.freeze()
    assert trained(learn) == ["0.1.weight", "0.1.bias", "2.weight", "2.bias"]


def test_a_remaining_gradient_does_not_move_frozen_parameters():
    learn = make(splitter=split)
    for parameter in learn.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    learn.freeze(train_norms=False)
    assert [name for name, each in learn.model.named_parameters() if each.grad is not None] == [
        "2.weight",
        "2.bias",
    ]


def test_parameters_frozen_when_the_optimizer_was_made_train_after_unfreezing():
    model = make_model()
    model[0].requires_grad_(False)
    learn = make(model, decay_norms=False)
    learn.unfreeze()
    assert len(moved(learn)) == 8
    assert {group["layer_group"] for group in learn.optimizer.param_groups} == {0}


def test_a_completely_frozen_model_gets_its_optimizer():
    learn = make(make_model().requires_grad_(False))
    assert learn.optimizer is None
    learn.unfreeze()
    assert len(moved(learn)) == 8


@pytest.mark.parametrize("n", [3, -4])
def test_freezing_everything_is_refused(n):
    learn = make(splitter=split)
    with pytest.raises(ValueError, match=r"the model has 3 layer groups\. Pass -3 to 2"):
        learn.freeze_to(n)
    assert len(trained(learn)) == 8


def test_freezing_a_single_group_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="splitter="):
        make().freeze()
    with pytest.raises(TypeError, match="number of the first"):
        make(splitter=split).freeze_to("head")


@pytest.mark.parametrize(
    ("rate", "n_groups", "rates"),
    [
        (0.1, 3, [0.1, 0.1, 0.1]),
        (slice(0.1), 3, [0.01, 0.01, 0.1]),
        (slice(0.001, 0.1), 3, [0.001, 0.01, 0.1]),
        (slice(0.001, 0.1), 1, [0.1]),
        (slice(0.1), 1, [0.1]),
    ],
)
def test_rates_spread_over_groups(rate, n_groups, rates):
    assert spread(rate, n_groups) == pytest.approx(rates)


@pytest.mark.parametrize(
    "rate", [0, -1.0, float("nan"), "0.1", True, None, slice(None), slice(0, 1), slice(1, 2, 3)]
)
def test_an_invalid_rate_is_refused(rate):
    with pytest.raises((TypeError, ValueError), match="pass"):
        spread(rate, 2)
