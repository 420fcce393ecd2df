"""A recipe builds the Learner that Python would."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.recipe_files import MODELS, problems_of

import callbacks
from callbacks import Callback, EarlyStopping, Progress, ZeroGrad
from learner import DEFAULT_CALLBACKS, Learner
from learner.recipes.names import KINDS, known, table
from learner.recipes.recipe import load_recipe
from learner.recipes.sections import KEYS


def test_a_recipe_trains_with_the_bits_of_the_same_parts_in_python(write):
    learn = load_recipe(write()).build()
    learn.fit(2)
    torch.manual_seed(3)
    x = torch.rand(6, 1)
    layers = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    other = Learner(layers, (x, 2 * x + 1), F.mse_loss, partial(torch.optim.SGD, lr=0.1), defaults=[ZeroGrad])
    other.fit(2)
    assert all(torch.equal(*pair) for pair in zip(learn.model.parameters(), layers.parameters(), strict=True))


def test_the_seed_sets_torch_python_and_numpy(write):
    import numpy as np

    load_recipe(write(("seed: 3", "seed: 11"))).build()
    drawn = random.random(), np.random.rand()
    random.seed(11)
    np.random.seed(11)
    assert drawn == (random.random(), np.random.rand())


def test_without_a_seed_nothing_is_seeded(write):
    torch.manual_seed(5)
    expected = torch.rand(6, 1)
    torch.manual_seed(5)
    learn = load_recipe(write(("seed: 3\n", ""))).build()
    assert torch.equal(learn.data.train[0][0], expected)


def test_null_removes_a_default_and_nothing_else(write):
    learn = load_recipe(write()).build()
    assert {type(callback) for callback in learn.callbacks} == set(DEFAULT_CALLBACKS) - {Progress}


def test_a_recipe_asks_for_batches_on_a_stream_of_their_own(write):
    changed = ("  Progress: null", "  DevicePlacement: {device: cpu, prefetch: true}\n  Progress: null")
    learn = load_recipe(write(changed)).build()
    assert learn.callbacks.device_placement.prefetch is True
    learn.fit(1)


def test_an_empty_list_of_defaults_removes_all(write):
    learn = load_recipe(
        write(("callbacks:\n  Progress: null", "defaults: []\ncallbacks:\n  ZeroGrad:"))
    ).build()
    assert [type(callback) for callback in learn.callbacks] == [ZeroGrad]


def test_a_callback_in_a_file_beside_the_recipe_is_found_by_its_key(write):
    learn = load_recipe(
        write(("Progress: null", 'loud: {use: "models.py:Shout", word: hey}\n  Progress: null'))
    ).build()
    learn.fit(2)
    assert learn.callbacks.loud.called == ["hey", "hey"]


def test_two_callbacks_of_one_class_have_different_keys(write):
    lines = "\n".join(f"  {name}: {{use: EarlyStopping, monitor: train_loss}}" for name in ("one", "two"))
    learn = load_recipe(write(("  Progress: null", lines))).build()
    assert learn.callbacks.one is not learn.callbacks.two
    assert isinstance(learn.callbacks.two, EarlyStopping)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("optimizer.lr=0.5", lambda learn: learn.optimizer.param_groups[0]["lr"] == 0.5),
        ("optimizer.momentum=0.9", lambda learn: learn.optimizer.param_groups[0]["momentum"] == 0.9),
        ("optimizer={use: Adam, lr: 1e-3}", lambda learn: type(learn.optimizer) is torch.optim.Adam),
        ("model.n_hidden=7", lambda learn: learn.model.n_hidden == 7),
        ("callbacks.EarlyStopping.patience=3", lambda learn: learn.callbacks.early_stopping.patience == 3),
        ("callbacks.ZeroGrad=null", lambda learn: ZeroGrad not in learn.callbacks),
        ("metrics=[RMSE, accuracy]", lambda learn: len(learn.metrics) == 2),
        ("loss=models.py:halved", lambda learn: learn.loss_func.__name__ == "halved"),
        ("loss={use: HuberLoss, delta: 2.0}", lambda learn: learn.loss_func.delta == 2.0),
        ("loss.use=huber", lambda learn: learn.loss_func is F.huber_loss),
        ("seed=null", lambda learn: True),
        ("device=cpu", lambda learn: learn.callbacks.device_placement.device.type == "cpu"),
    ],
)
def test_an_override_changes_what_it_names(write, override, found):
    assert found(load_recipe(write(), [override]).build())


def test_a_list_of_layers_is_a_sequential_model(write):
    ends = [
        "{use: Linear, in_features: 1, out_features: 3}",
        "{use: Linear, in_features: 3, out_features: 1}",
    ]
    layers = f"model: [{ends[0]}, ReLU, {ends[1]}]"
    learn = load_recipe(write(('model: {use: "models.py:Net", n_hidden: 4}', layers))).build()
    assert [type(layer).__name__ for layer in learn.model] == ["Linear", "ReLU", "Linear"]


def test_metrics_with_settings_are_written_as_a_callback(write):
    callback = "Metrics: {metrics: [{use: RMSE}], on: both}"
    learn = load_recipe(write(("  Progress: null", f"  Progress: null\n  {callback}"))).build()
    learn.fit(1)
    assert learn.history[-1]["train_rmse"] > 0


def test_all_problems_are_reported_together_in_the_order_of_lines(write):
    shown = problems_of(write(("lr: 1e-1", "lr: fast"), ("n_hidden", "n_hiden"), ("epochs: 2", "epochs: -2")))
    assert shown.index("n_hiden") < shown.index("fast") < shown.index("the number -2")


def test_nothing_is_built_while_anything_is_wrong(write):
    path = write(("epochs: 2", "epochs: two"), ("models.py:line", "models.py:touch"))
    path.with_name("models.py").write_text(
        MODELS + "\ndef touch(n: int):\n    open('touched', 'w').close()\n"
    )
    problems_of(path)
    assert not path.with_name("touched").exists()


def test_the_resolved_recipe_builds_the_same_again(write):
    path = write()
    recipe = load_recipe(path, ["optimizer.lr=0.25", "callbacks.EarlyStopping={}", "callbacks.Recorder=null"])
    first = recipe.build()
    path.write_text(recipe.resolved())
    second = load_recipe(path).build()
    assert repr(second.optimizer) == repr(first.optimizer)
    assert repr(second.callbacks) == repr(first.callbacks)
    assert all(
        torch.equal(*pair) for pair in zip(first.model.parameters(), second.model.parameters(), strict=True)
    )


def test_a_recipe_can_name_every_public_callback():
    public = [getattr(callbacks, name) for name in callbacks.__all__]
    expected = {item.__name__ for item in public if isinstance(item, type) and issubclass(item, Callback)}
    assert set(table("callback")) == expected - {"Callback"}


def test_every_name_in_a_table_is_accepted_by_its_kind():
    assert [
        (kind, name) for kind in KINDS for name in known(kind) if not KINDS[kind].accepts(table(kind)[name])
    ] == []


# Documentation


def test_the_page_on_recipes_lists_every_key():
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1:3]
        for line in page.split("## The keys")[1].split("##")[0].splitlines()
        if "|" in line
    ]
    shown = {key.strip(" `"): about.replace("`", "").strip() for key, about in rows[2:]}
    assert shown == KEYS


def test_the_page_on_recipes_shows_the_recipe_of_the_article_whole():
    root = Path(__file__).parents[3]
    page = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert (root / "examples" / "article.yaml").read_text(encoding="utf-8") in page
