"""Snapshots, checkpoints and recipes of several optimizers."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from ground.several_optimizers import adamw, is_matrix, learner_of, muon, same
from resumed import Interrupt
from schedule_free import ScheduleFreeSGD
from torch import nn
from torch.optim import SGD, AdamW

from callbacks import (
    Callback,
    Checkpoint,
)
from learner.recipes.recipe import load_recipe
from learner.recipes.writer import learner_to_recipe

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
