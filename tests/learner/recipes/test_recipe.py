"""A recipe builds the Learner that Python would."""

from __future__ import annotations

import random
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import callbacks
from callbacks import R2, RMSE, Callback, EarlyStopping, Progress, ZeroGrad
from learner import DEFAULT_CALLBACKS, Learner
from learner.data.datasets import diabetes, digits
from learner.recipes.names import KINDS, known, table
from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import RecipeError
from learner.recipes.sections import KEYS
from learner.recipes.writer import learner_to_recipe

MODELS = """\
import torch
from torch import nn
from callbacks import Callback
from helper import WIDTH


class Net(nn.Module):
    def __init__(self, n_hidden: int = WIDTH):
        super().__init__()
        self.n_hidden = n_hidden
        self.layers = nn.Sequential(nn.Linear(1, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1))

    def forward(self, x):
        return self.layers(x)


class Shout(Callback):
    def __init__(self, word: str = "ho"):
        self.word = word
        self.called = []

    def after_epoch(self, learn):
        self.called.append(self.word)


def line(n: int = 8):
    x = torch.rand(n, 1)
    return x, 2 * x + 1


def halved(preds, targets):
    return (preds - targets).square().mean() / 2
"""

RECIPE = """\
seed: 3
data: {use: "models.py:line", n: 6}
model: {use: "models.py:Net", n_hidden: 4}
loss: mse
optimizer: {use: SGD, lr: 1e-1}
callbacks:
  Progress: null
fit: {epochs: 2}
"""


@pytest.fixture
def write(tmp_path: Path):
    """Write a recipe beside its Python files, with some of its text changed."""

    def write(*changes: tuple[str, str], text: str = RECIPE) -> Path:
        (tmp_path / "helper.py").write_text("WIDTH = 5\n")
        (tmp_path / "models.py").write_text(MODELS)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    yield write
    for name in ("models", "helper"):
        sys.modules.pop(name, None)


def problems_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides).build()
    return str(caught.value)


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


def test_a_link_out_of_the_folder_is_refused(write, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.py"
    outside.write_text(MODELS)
    path = write(("models.py:Net", "link.py:Net"))
    path.with_name("link.py").symlink_to(outside)
    assert "not in or below the recipe's folder" in problems_of(path)


def test_a_module_of_an_allowed_package_is_found(write):
    path = write(
        (
            "Progress: null",
            'mine: {use: "callbacks:StopOnNaN"}\n  Progress: null\n  StopOnNaN: null',
        )
    )
    assert "--allow callbacks" in problems_of(path)
    learn = load_recipe(path, allow=["callbacks"]).build()
    assert learn.callbacks.mine.name == "mine"


def test_a_recipe_alone_imports_nothing(write):
    before = set(sys.modules)
    problems_of(write(("models.py:line", "wave:open")))
    assert "wave" not in set(sys.modules) - before


def test_a_file_may_lie_below_the_recipe(write):
    path = write(("models.py:Net", "sub/models.py:Net"))
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "models.py").write_text(MODELS)
    assert load_recipe(path).build().model.n_hidden == 4


def test_a_module_is_kept_that_was_imported_through_a_link_into_the_folder(
    write, tmp_path_factory, monkeypatch
):
    path, elsewhere = write(), tmp_path_factory.mktemp("elsewhere")
    for name in ("linked_file", "linked_folder/inner"):
        target = path.parent / "own" / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("")
    (elsewhere / "linked_file.py").symlink_to(path.parent / "own" / "linked_file.py")
    (elsewhere / "to_folder").symlink_to(path.parent / "own" / "linked_folder")
    (elsewhere / "stranger.py").write_text("")
    for number, name in enumerate(("linked_file.py", "to_folder/inner.py", "stranger.py")):
        module = ModuleType(f"linked_{number}")
        module.__file__ = str(elsewhere / name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    recipe = load_recipe(path)
    recipe.build()
    kept = [source.name for source in recipe.names.code.sources()]
    assert kept == ["helper.py", "models.py", "linked_file.py", "inner.py"]


def test_paths_with_spaces_and_letters_of_all_languages_work(write, tmp_path):
    source, folder = write().parent, tmp_path / ("a folder with späce 目录" + "x" * 150)
    folder.mkdir()
    for name in ("recipe.yaml", "models.py", "helper.py"):
        (folder / name).write_text((source / name).read_text())
    assert load_recipe(folder / "recipe.yaml").build().model.n_hidden == 4


def test_a_relative_path_is_resolved_once(write, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(write().parent)
    recipe = load_recipe("recipe.yaml")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert recipe.build().model.n_hidden == 4


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
    yield path
    sys.modules.pop("models", None)


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


CALLBACKS = "callbacks:\n  Progress: null\n"


@pytest.mark.parametrize(
    "line",
    [
        "  Checkpoint: {folder: ../../x}",
        "  Checkpoint: {folder: /x}",
        "  Checkpoint: {folder: a/../../x}",
        "  BlackBox: {folder: ..}",
        "  CSVLogger: {path: ../x.csv}",
        "  JSONLines: {path: '..\\x.jsonl'}",
        "  PlotSnapshots: {n: 2, path: 'C:\\x.png'}",
        "  When: {callback: {use: Checkpoint, folder: ../x}, until: 1 epoch}",
    ],
)
def test_a_recipe_writes_nothing_outside_of_the_runs_folder(line, write):
    written = problems_of(write((CALLBACKS, f"{CALLBACKS}{line}\n")))
    assert re.search(
        r"recipe.yaml:8:\d+: callbacks.*(folder|path): .* is not below the run's folder", written
    )


@pytest.mark.parametrize("folder", ["checkpoints", "a/b", "a/../b", "..b"])
def test_a_recipe_writes_where_it_likes_below_the_runs_folder(folder, write):
    path = write((CALLBACKS, f"{CALLBACKS}  Checkpoint: {{folder: {folder}}}\n"))
    assert str(load_recipe(path).build().callbacks.checkpoint.folder) == folder


def test_the_command_line_can_send_files_elsewhere(write, tmp_path):
    path = write((CALLBACKS, f"{CALLBACKS}  Checkpoint: {{folder: checkpoints}}\n"))
    recipe = load_recipe(path, [f"callbacks.Checkpoint.folder={tmp_path}/elsewhere"])
    assert recipe.build().callbacks.checkpoint.folder == tmp_path / "elsewhere"


STRANGER = """\
def try_to():
    try:
        import stray
    except ImportError:
        return None
    return stray
"""
OWN = """
import importlib
import neighbour_package.inner


class Late(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def forward(self, x):
        import neighbour_late
        importlib.import_module("neighbour_by_name")
        import library_of_others
        library_of_others.try_to()
        return super().forward(x)
"""
NEIGHBOURS = ("neighbour_package", "neighbour_package.inner", "neighbour_late", "neighbour_by_name")


def test_only_the_files_of_a_recipe_import_from_its_folder(write, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "library_of_others.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(elsewhere))
    path = write(('"models.py:Net", n_hidden: 4', '"models.py:Late"'))
    (path.parent / "models.py").write_text(MODELS + OWN)
    (path.parent / "neighbour_package").mkdir()
    for name in (
        "neighbour_package/__init__",
        "neighbour_package/inner",
        "neighbour_late",
        "neighbour_by_name",
    ):
        (path.parent / f"{name}.py").write_text("")
    (path.parent / "stray.py").write_text("raise SystemExit('a file that nobody named was run')")
    recipe = load_recipe(path)
    learn = recipe.build()
    with recipe.importable():
        learn.fit(1)
    found = [name for name in (*NEIGHBOURS, "library_of_others") if sys.modules.pop(name, None)]
    assert found == [*NEIGHBOURS, "library_of_others"]
    assert "stray" not in sys.modules


def test_a_recipe_without_python_files_makes_none_importable(write):
    path = write(
        ('"models.py:line", n: 6', "diabetes"),
        ('"models.py:Net", n_hidden: 4', "LazyLinear, out_features: 1"),
    )
    (path.parent / "stray.py").write_text("raise SystemExit('a file that nobody named was run')")
    before = list(sys.path), list(sys.meta_path)
    with load_recipe(path).importable(), pytest.raises(ImportError):
        import stray  # noqa: F401
    assert before == (list(sys.path), list(sys.meta_path))
