"""Recipes that are written from Python, layer groups in recipes, and data sets by name."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.recipe_files import problems_of

from callbacks import R2, RMSE, EarlyStopping, Progress
from learner import Learner
from learner.data.datasets import diabetes, digits
from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import RecipeError
from learner.recipes.writer import learner_to_recipe

# Written from Python


def test_a_learner_of_named_parts_is_written_and_built_again(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 1))
    made = Learner(
        model,
        diabetes(seed=0),
        nn.HuberLoss(delta=2.0),
        partial(torch.optim.Adam, lr=3e-3, betas=(0.8, 0.99)),
        callbacks=[EarlyStopping(patience=2, min_delta=0.1)],
        metrics=[RMSE, R2()],
    )
    text = learner_to_recipe(made, 5, data={"use": "diabetes", "seed": 0}, seed=3)
    (tmp_path / "written.yaml").write_text(text)
    again = load_recipe(tmp_path / "written.yaml").build()
    assert repr(again.model) == repr(made.model)
    assert repr(again.optimizer) == repr(made.optimizer)
    assert repr(again.callbacks) == repr(made.callbacks)
    assert "min_delta: 0.1" in text
    assert learner_to_recipe(again, 5, data={"use": "diabetes", "seed": 0}, seed=3) == text
    assert again.loss_func.delta == 2.0
    assert [type(metric) for metric in again.metrics] == [RMSE, R2]


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "cross_entropy"])
def test_class_weights_are_a_list(write, loss):
    path = write(("mse", f"{{use: {loss}, weight: [1, 2.5]}}"))
    made = load_recipe(path).build()
    right = F.cross_entropy(torch.eye(2), torch.tensor([0, 1]), torch.tensor([1.0, 2.5]))
    assert torch.equal(made.loss_func(torch.eye(2), torch.tensor([0, 1])), right)
    path.write_text(learner_to_recipe(made, 2, data="models.py:line", folder=path.parent))
    assert "weight: [1.0, 2.5]" in path.read_text()
    assert torch.equal(load_recipe(path).build().loss_func(torch.eye(2), torch.tensor([0, 1])), right)


@pytest.mark.parametrize("weight", ["3", "balanced", "[1, many]", "[[1, 2], [3]]", "[]", "[true, 1]"])
def test_class_weights_that_are_not_numbers_are_refused_with_their_form(write, weight):
    text = problems_of(write(("mse", f"{{use: CrossEntropyLoss, weight: {weight}}}")))
    assert "Write a list of numbers, as [1.0, 2.5] or null." in text


def test_a_learner_of_a_users_own_parts_is_written_from_their_file(write):
    path = write(
        ("Progress: null", 'Shout: {use: "models.py:Shout", word: hey}\n  Progress: null'),
        ("mse", "models.py:halved"),
    )
    made = load_recipe(path).build()
    text = learner_to_recipe(made, 2, data="models.py:line", folder=path.parent)
    path.write_text(text)
    again = load_recipe(path).build()
    assert again.model.n_hidden == 4
    assert again.callbacks.shout.word == "hey"
    assert again.loss_func.__name__ == "halved"
    assert Progress not in again.callbacks


def test_all_parts_without_a_name_are_reported():
    made = Learner(nn.Linear(10, 1), diabetes(seed=0), lambda preds, targets: preds.sum(), None)
    with pytest.raises(ValueError, match="cannot be written") as caught:
        learner_to_recipe(made, 2, data="diabetes")
    assert "optimizer: the Learner has none" in str(caught.value)
    assert "loss <lambda>: a recipe has no name for it" in str(caught.value)


# Data sets


def test_the_features_of_diabetes_are_standardised_by_the_training_part_alone():
    data = diabetes(seed=4)
    inputs, targets = data.train.tensors
    assert torch.allclose(inputs.mean(0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(inputs.std(0), torch.ones(10), atol=1e-5)
    assert targets.shape == (354, 1)
    assert not torch.allclose(data.valid.tensors[0].mean(0), torch.zeros(10), atol=1e-3)


def test_the_digits_come_flat_or_as_images_and_the_seed_fixes_the_split():
    one, other = digits(seed=1), digits(seed=1, shape="image")
    assert one.train.tensors[0].shape == (1438, 64)
    assert other.train.tensors[0].shape == (1438, 1, 8, 8)
    assert torch.equal(one.train.tensors[0].flatten(), other.train.tensors[0].flatten())
    assert 0 <= one.train.tensors[0].min() < one.train.tensors[0].max() <= 1


# Layer groups

GROUPED = """
data: {use: diabetes, seed: 0}
model: {use: "models.py:Two"}
loss: mse
optimizer: {use: AdamW, lr: 0.001}
splitter: "models.py:split"
decay_norms: false
fit: {epochs: 1}
"""


TWO = """
from torch import nn

class Two(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(10, 4), nn.Linear(4, 1))

def split(model):
    return [model[0], model[1]]

def forgets(model):
    return [model[0]]
"""


@pytest.fixture
def grouped(tmp_path):
    (tmp_path / "models.py").write_text(TWO)
    path = tmp_path / "grouped.yaml"
    path.write_text(GROUPED)
    return path


def test_a_recipe_sets_layer_groups_and_decay_of_norms(grouped):
    learn = load_recipe(grouped).build()
    groups = [(each["layer_group"], each["weight_decay"]) for each in learn.optimizer.param_groups]
    assert groups == [(0, 0.01), (0, 0.0), (1, 0.01), (1, 0.0)]
    data = {"use": "diabetes", "seed": 0}
    text = learner_to_recipe(learn, 1, data=data, model={"use": "models.py:Two"}, folder=grouped.parent)
    assert "splitter: models.py:split" in text
    assert "decay_norms: false" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("splitter=models.py:forgets", "splitter: its 1 group lacks 1.weight, 1.bias"),
        ("splitter=models.py:Two", "not a valid splitter"),
        ("decay_norms=3", "Write true or false"),
        ("wd_bn_bias=false", "Did you mean decay_norms"),
    ],
)
def test_invalid_layer_groups_are_reported_at_their_place_in_the_recipe(grouped, override, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(grouped, [override]).build()


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("cosine", r"Did you mean cos\?"),
        ("linear", r"Did you mean lin\?"),
        ("one_cycel", r"Did you mean one_cycle\?"),
        ("poly", "poly needs start, end"),
    ],
)
def test_a_wrong_annealer_in_a_recipe_gets_a_hint(grouped, use, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(grouped, [f"callbacks.ParamScheduler={{schedules: {{lr: {{use: {use}}}}}}}"])
