"""Scripts of plain PyTorch end with the bits of the learner; parts without a script form are refused."""

import csv
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
import yaml

from callbacks import (
    EMA,
    F1,
    Callback,
    DevicePlacement,
    EarlyStopping,
    GradientClip,
    LearnerWarning,
    Metrics,
    MixUp,
    StopOnNaN,
    When,
    ZeroGrad,
)
from learner import Learner
from learner.cli.commands import main

HERE = Path(__file__).parent
COMPOSITIONS = yaml.safe_load((HERE / "compositions.yaml").read_text(encoding="utf-8"))
BASE = COMPOSITIONS.pop("base")
EXAMPLES = ("article", "digits", "diabetes")
QUIET = (ZeroGrad, DevicePlacement, StopOnNaN, Metrics)
NEEDS_DATA = ("two_inputs", "by_name", "own_split", "blocks")  # their data functions return a `Data`

RUN_SCRIPTS = """
import contextlib, io, os, runpy, sys
sys.path.insert(0, ".")
for name in sys.argv[1].split():
    with contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(f"train_{name}.py", run_name="__main__")
    os.rename("model.pt", f"{name}.script.pt")
print(*(name for name in ("learner", "callbacks") if name in sys.modules))
"""

RUN_LEARNERS = """
import sys, torch
import from_python
for name in from_python.LEARNERS:
    learn, _ = from_python.made(name)
    learn.fit(from_python.N_EPOCHS)
    torch.save(learn.model.state_dict(), f"{name}.learner.pt")
from learner.recipes.recipe import load_recipe
for name in sys.argv[2].split():
    recipe = load_recipe(f"{name}.yaml", ["callbacks.Progress=null"])
    with recipe.importable():
        learn = recipe.build()
        learn.fit(recipe.n_epochs)
    torch.save(learn.model.state_dict(), f"{name}.learner.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all recipes, their scripts, and what both end with."""
    folder = tmp_path_factory.mktemp("scripts")
    for name in ("models.py", "with_data.py", "from_python.py"):
        shutil.copy(HERE / name, folder)
    for name, changes in COMPOSITIONS.items():
        write_recipe(folder / f"{name}.yaml", **changes)
    for name in COMPOSITIONS:
        assert (
            main(["to-script", str(folder / f"{name}.yaml"), "--output", str(folder / f"train_{name}.py")])
            == 0
        )
    names = write_scripts(folder)
    without = [name for name in (*COMPOSITIONS, *names) if name not in NEEDS_DATA]
    environment = {**os.environ, **processes.SETTINGS}
    command = [sys.executable, "-c", RUN_SCRIPTS, " ".join(without)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr[-3000:]
    (folder / "logs").rename(folder / "script_logs")
    shutil.rmtree(folder / "kept")  # a Checkpoint starts no run in a folder that has one
    names = " ".join(NEEDS_DATA), " ".join(COMPOSITIONS)
    done = processes.run("-c", RUN_SCRIPTS + RUN_LEARNERS, *names, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def write_scripts(folder):
    """Write the scripts of the learners that are made in Python; returns their names."""
    with user_code(folder):
        import from_python

        for name in from_python.LEARNERS:
            learn, given = from_python.made(name)
            path = folder / f"train_{name}.py"
            learn.to_script(path, n_epochs=from_python.N_EPOCHS, seed=from_python.SEED, **given)
        return tuple(from_python.LEARNERS)


@contextmanager
def user_code(folder):
    """Files of the folder can be imported, also under names of other modules, and are removed at the end."""
    names = ("models", "with_data", "from_python")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def write_recipe(path, **changes):
    """Write a recipe that differs from `BASE`; a key that is None is left out."""
    recipe = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_script_ends_with_the_bits_of_the_learner(folder, name):
    script, learner = torch.load(folder / f"{name}.script.pt"), torch.load(folder / f"{name}.learner.pt")
    assert list(script) == list(learner)
    assert all(torch.equal(script[key], learner[key]) for key in learner)


def test_a_script_of_a_learner_made_in_python_ends_with_its_bits(folder):
    names = [each.name.removesuffix(".learner.pt") for each in folder.glob("*.learner.pt")]
    others = sorted(set(names) - set(COMPOSITIONS))
    assert len(others) >= 16
    for name in others:
        script, learner = torch.load(folder / f"{name}.script.pt"), torch.load(folder / f"{name}.learner.pt")
        assert all(torch.equal(script[key], learner[key]) for key in learner), name


def test_the_log_of_a_script_has_the_numbers_of_the_learner(folder):
    script, learner = (read_log(folder / name / "log.csv") for name in ("script_logs", "logs"))
    assert script == [{name: row[name] for name in script[0]} for row in learner]


def read_log(path):
    """The rows of a log without the seconds."""
    with path.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)
        ]


def test_scripts_are_formatted_and_have_nothing_unused(folder):
    ruff = [shutil.which("ruff") or pytest.skip("ruff is not installed")]
    scripts = sorted(each.name for each in folder.glob("train_*.py"))
    for options in (["format", "--check"], ["check", "--select", "E,F,I,B,UP,W", "--ignore", "B007"]):
        command = [*ruff, *options, "--isolated", "--no-cache", "--line-length", "100", *scripts]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_script_names_this_project_in_its_code(folder):
    for path in folder.glob("train_*.py"):
        code = path.read_text(encoding="utf-8").split('"""', 2)[2]
        assert "learner" not in code
        assert "callbacks" not in code


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipes_of_the_examples_have_scripts(tmp_path, name):
    path = tmp_path / "train.py"
    assert main(["to-script", str(HERE.parents[2] / "examples" / f"{name}.yaml"), "--output", str(path)]) == 0
    assert "for epoch in range(N_EPOCHS):" in path.read_text(encoding="utf-8")


# What is refused ------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A learner of the user's files in the current folder, with further arguments of `Learner`."""
    shutil.copy(HERE / "models.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    with user_code(tmp_path):
        import models

        def make(*callbacks, loss=torch.nn.functional.cross_entropy, cls=Learner, **options):
            optimizer = partial(torch.optim.SGD, lr=0.1)
            return cls(models.Net(), models.loaders(), loss, optimizer, callbacks, defaults=QUIET, **options)

        yield make


GIVEN = {"n_epochs": 2, "model": "models.py:Net", "data": "models.py:loaders"}


def refusal(learn, **changes):
    """The message of the error, after which there is no file."""
    with pytest.raises(ValueError, match="script") as error:
        learn.to_script("train.py", **{**GIVEN, **changes})
    assert not Path("train.py").exists()
    return str(error.value)


class Own(Callback):
    def after_batch(self, learn):
        pass


class OwnForward(Learner):
    def forward(self):
        super().forward()


def test_all_parts_without_a_script_form_are_named_at_once(net):
    late = When(GradientClip(1.0), start="1 epoch")
    loss = lambda preds, targets: torch.nn.functional.cross_entropy(preds, targets)  # noqa: E731
    message = refusal(net(Own(), MixUp(), late, loss=loss, metrics=[F1()], cls=OwnForward))
    for part in ("Own", "MixUp", "When(GradientClip", "a lambda", "F1", "OwnForward.forward"):
        assert part in message


def test_several_optimizers_have_no_script_form(net):
    model = net().model
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model.body, model.head)]
    learn = Learner(model, net().data, torch.nn.functional.cross_entropy, optimizers, defaults=QUIET)
    assert "several optimizers" in refusal(learn)


def test_a_missing_model_and_missing_data_are_reported_together(net):
    message = refusal(net(), model=None, data=None)
    assert "to_script(model=...) is missing" in message
    assert "to_script(data=...) is missing" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "models.py:Nett"}, "no function or class 'Nett'"),
        ({"model": "elsewhere.py:Net"}, "there is no file"),
        ({"model": {"use": "models.py:Net", "hidden": 3}}, "unexpected keyword argument 'hidden'"),
        ({"data": ["models.py:loaders"]}, "pass a function next to the script"),
        ({"n_epochs": 1.5}, "the number of epochs"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(net, changes, words):
    assert words in refusal(net(), **changes)


def test_a_monitor_that_the_script_does_not_measure_is_refused(net):
    assert "does not measure 'unclipped_norm'" in refusal(
        net(GradientClip(1.0), EarlyStopping("unclipped_norm", mode="min"))
    )


def test_a_seed_that_gives_other_weights_is_reported(net):
    with pytest.warns(LearnerWarning, match="starts with other weights"):
        net().to_script("train.py", seed=1234, **GIVEN)


def test_a_file_of_the_user_is_not_overwritten_and_a_script_is(net):
    learn = net()
    with pytest.raises(FileExistsError, match="was not written by to_script"):
        learn.to_script("models.py", **GIVEN)
    assert learn.to_script("train.py", **GIVEN) == learn.to_script("train.py", **GIVEN)


def test_writing_a_script_leaves_the_learner_and_the_random_state_alone(net):
    learn = net()
    before, state = learn.snapshot()["model"], torch.get_rng_state()
    learn.to_script("train.py", callbacks=[EMA()], **GIVEN)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(each) for each in learn.callbacks] == [type(each) for each in net().callbacks]
    assert all(torch.equal(before[key], each) for key, each in learn.model.state_dict().items())


def test_the_command_refuses_with_the_exit_code_2_and_writes_nothing(tmp_path, capsys):
    shutil.copy(HERE / "models.py", tmp_path)
    write_recipe(tmp_path / "recipe.yaml", callbacks={"MixUp": {}, "SAM": {}})
    assert main(["to-script", str(tmp_path / "recipe.yaml")]) == 2
    printed = capsys.readouterr().err
    assert "MixUp" in printed
    assert "SAM" in printed
    assert not (tmp_path / "train.py").exists()


def test_the_command_names_what_the_script_leaves_out(tmp_path, capsys):
    shutil.copy(HERE / "models.py", tmp_path)
    write_recipe(tmp_path / "recipe.yaml", callbacks={"GradientNorms": {}})
    assert main(["to-script", str(tmp_path / "recipe.yaml")]) == 0
    assert "left out, because it does not change the training: GradientNorms" in capsys.readouterr().out
    assert "GradientNorms" in (tmp_path / "train.py").read_text(encoding="utf-8")


OF_THIS_PROJECT = """
from learner import Data
import models

def loaders():
    return Data(*models.loaders())
"""


def test_files_that_import_this_project_are_named_by_the_command_and_in_python(net, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "given.py").write_text(OF_THIS_PROJECT)
    (tmp_path / "feed.py").write_text(
        "from parts import given\n\ndef loaders():\n    return given.loaders()\n"
    )
    message = "the script needs plainlearner as long as this file imports it: parts/given.py"
    net().to_script("train.py", **{**GIVEN, "data": "feed.py:loaders"})
    assert capsys.readouterr().out.count(message) == 1
    write_recipe(tmp_path / "recipe.yaml", data={"use": "feed.py:loaders"})
    assert main(["to-script", str(tmp_path / "recipe.yaml")]) == 0
    assert message in capsys.readouterr().out


def test_words_about_this_project_in_a_file_are_not_imports(net, tmp_path, capsys):
    with (tmp_path / "models.py").open("a") as file:
        file.write('\nNOTE = """to resume, write: from learner import Learner"""\n')
    net().to_script("train.py", **GIVEN)
    assert "needs plainlearner" not in capsys.readouterr().out
