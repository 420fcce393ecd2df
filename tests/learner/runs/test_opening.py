"""`learner.open_run`: a run as a learner, from any folder, with changed code, without its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import learner
from callbacks import LearnerWarning
from learner.learner import Learner
from learner.recipes.recipe import load_recipe
from learner.runs.running import run

RECIPE = """
recipe: a small net
seed: 0
data: {use: "parts.py:data"}
model: {use: "parts.py:Net"}
loss: mse
optimizer: {use: SGD, lr: 0.4}
callbacks:
  Progress: null
  EarlyStopping: {restore_best: false}
fit: {epochs: 4}
"""

CODE = """
from pathlib import Path
import torch
from torch import nn
from learner import Data

def data():
    if Path("data is away").exists():
        raise FileNotFoundError("numbers.csv")
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    return Data.from_tensors(inputs, inputs.sum(1, keepdim=True), batch_size=3, valid=0.25, seed=0)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
"""

INPUTS = torch.tensor([[0.5, 1.0], [2.0, -1.0]])


@pytest.fixture(autouse=True)
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in a folder with a recipe and its code."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("parts.py").write_text(CODE)


def trained(*overrides: str) -> Learner:
    return run(load_recipe("small.yaml", overrides))


def same(one: Learner, other: Learner) -> bool:
    return torch.equal(one.predict(INPUTS), other.predict(INPUTS))


def test_a_run_is_opened_from_another_folder_with_its_weights_and_history(tmp_path, monkeypatch):
    then = trained()
    moved = shutil.move("runs/small-1", tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    learn = learner.open_run(moved)
    assert same(learn, then)
    assert list(learn.history["valid_loss"]) == list(then.history["valid_loss"])
    assert not learn.model.training


def test_the_best_weights_are_opened_or_loaded_later():
    then = trained()
    best = learner.open_run("runs/small-1", "best")
    assert best.validate()["valid_loss"] == min(then.history["valid_loss"])
    assert not same(best, then)
    final = learner.open_run("runs/small-1")
    assert final.load_best().name == "best.safetensors"
    assert same(final, best)


def test_an_interrupted_run_is_continued_with_the_same_bits():
    saving = "callbacks.Checkpoint={folder: saved}"
    whole = trained(saving)
    trained(saving, "fit.epochs=2")
    learn = learner.open_run("runs/small-2", "checkpoint")
    learn.fit(4, resume="must")
    assert same(learn, whole)
    assert len(learn.history) == 4


def test_a_run_without_its_data_predicts_and_warns_that_it_cannot_train():
    then = trained()
    Path("data is away").touch()
    with pytest.warns(LearnerWarning, match=r"can only predict: .*numbers\.csv"):
        learn = learner.open_run("runs/small-1")
    assert same(learn, then)
    assert torch.equal(learn.predict(INPUTS[0]), then.predict(INPUTS[0]))
    with pytest.raises(RuntimeError, match=r"numbers\.csv"):
        learn.fit(1)


def test_code_that_has_changed_is_reported_with_the_difference():
    trained()
    code = Path("runs/small-1/parts.py")
    code.write_text(CODE.replace("nn.Linear(2, 3)", "nn.Linear(2, 3, bias=True)"))
    with pytest.warns(LearnerWarning, match=r"(?s)parts\.py has changed .*\+ .*bias=True"):
        learner.open_run("runs/small-1")


def test_weights_that_no_longer_fit_are_refused_with_the_change_of_the_code():
    trained()
    code = Path("runs/small-1/parts.py")
    code.write_text(CODE.replace("2, 3)", "2, 4)").replace("1d(3)", "1d(4)").replace("(3, 1)", "(4, 1)"))
    with pytest.warns(LearnerWarning), pytest.raises(ValueError, match="of another shape") as refused:
        learner.open_run("runs/small-1")
    assert "+        super().__init__(nn.Linear(2, 4)" in "".join(refused.value.__notes__)


def test_weights_that_are_missing_are_named_with_those_that_exist():
    trained()
    Path("runs/small-1/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no final weights .*open_run\('runs/small-1', 'best'\)"):
        learner.open_run("runs/small-1")
    Path("runs/small-1/best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights at all"):
        learner.open_run("runs/small-1")


def test_a_folder_that_is_not_a_run_is_refused_with_those_that_are():
    trained()
    with pytest.raises(FileNotFoundError, match=r"Available: .*small-1"):
        learner.open_run("runs/small-2")
    with pytest.raises(FileNotFoundError, match=r"learn\.load\('runs/small-1/model\.safetensors'\)"):
        learner.open_run("runs/small-1/model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"learner run runs/small-1/recipe\.yaml"):
        learner.open_run("runs/small-1/recipe.yaml")
    with pytest.raises(IsADirectoryError, match="pass a file, such as"):
        learner.open_run("runs/small-1").save("runs")
    Path("saved").mkdir()
    learner.open_run("runs/small-1").save("saved/step.pt")
    with pytest.raises(FileNotFoundError, match=r"learn\.load_best\('saved'\)"):
        learner.open_run("saved")


def test_a_run_of_a_newer_format_is_refused_and_one_of_another_torch_is_reported(capsys):
    trained()
    path = Path("runs/small-1/run.json")
    facts = json.loads(path.read_text())
    facts["environment"]["torch"] = "2.9.0"
    path.write_text(json.dumps(facts))
    learner.open_run("runs/small-1")
    assert "was trained with torch 2.9.0, now" in capsys.readouterr().out
    path.write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ValueError, match="format 2"):
        learner.open_run("runs/small-1")


def test_facts_of_other_types_are_left_out():
    trained()
    wrong = {"weights": 3, "code": [], "environment": 7, "monitored": {"name": []}, "warnings": "none"}
    Path("runs/small-1/run.json").write_text(json.dumps(wrong))
    learner.open_run("runs/small-1")
    assert "small-1" in repr(learner.compare("runs/small-1", learner.open_run("runs/small-1")))


def test_an_empty_weights_file_is_refused_as_such():
    trained()
    Path("runs/small-1/model.safetensors").write_bytes(b"")
    with pytest.raises(learner.CheckpointError, match=r"model\.safetensors: it is empty \(0 bytes\)\."):
        learner.open_run("runs/small-1")


def test_a_damaged_weights_file_is_refused():
    trained()
    path = Path("runs/small-1/model.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(learner.CheckpointError, match=r"model\.safetensors"):
        learner.open_run("runs/small-1")
