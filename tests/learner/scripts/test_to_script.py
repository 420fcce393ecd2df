"""Scripts of plain PyTorch: they end with the bits of the learner, and what has no script form is refused."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from learner.cli.commands import main

HERE = Path(__file__).parent
COMPOSITIONS = yaml.safe_load((HERE / "compositions.yaml").read_text(encoding="utf-8"))
BASE = COMPOSITIONS.pop("base")
EXAMPLES = ("article", "digits", "diabetes")
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
    for name in ("models.py", "with_data.py"):
        shutil.copy(HERE / name, folder)
    for name, changes in COMPOSITIONS.items():
        write_recipe(folder / f"{name}.yaml", **changes)
    for name in COMPOSITIONS:
        assert (
            main(["to-script", str(folder / f"{name}.yaml"), "--output", str(folder / f"train_{name}.py")])
            == 0
        )
    without = [name for name in COMPOSITIONS if name not in NEEDS_DATA]
    assert run(folder, RUN_SCRIPTS, " ".join(without)) == "", "a script imports this project"
    (folder / "logs").rename(folder / "script_logs")
    shutil.rmtree(folder / "kept")  # a Checkpoint starts no run in a folder that has one
    run(folder, RUN_SCRIPTS + RUN_LEARNERS, " ".join(NEEDS_DATA), " ".join(COMPOSITIONS))
    return folder


def write_recipe(path, **changes):
    """Write a recipe that differs from `BASE`; a key that is None is left out."""
    recipe = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def run(folder, code, *arguments):
    """What a new process prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_script_ends_with_the_bits_of_the_learner(folder, name):
    script, learner = torch.load(folder / f"{name}.script.pt"), torch.load(folder / f"{name}.learner.pt")
    assert list(script) == list(learner)
    assert all(torch.equal(script[key], learner[key]) for key in learner)


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
    scripts = [f"train_{name}.py" for name in COMPOSITIONS]
    for options in (["format", "--check"], ["check", "--select", "E,F,I,B,UP,W", "--ignore", "B007"]):
        command = [*ruff, *options, "--isolated", "--no-cache", "--line-length", "100", *scripts]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_script_names_this_project_in_its_code(folder):
    for name in COMPOSITIONS:
        code = (folder / f"train_{name}.py").read_text(encoding="utf-8").split('"""', 2)[2]
        assert "learner" not in code
        assert "callbacks" not in code


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipes_of_the_examples_have_scripts(tmp_path, name):
    path = tmp_path / "train.py"
    assert main(["to-script", str(HERE.parents[2] / "examples" / f"{name}.yaml"), "--output", str(path)]) == 0
    assert "for epoch in range(N_EPOCHS):" in path.read_text(encoding="utf-8")
