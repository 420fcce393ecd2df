"""`learner export RUN FILE` writes the model of a run for other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import learner
from learner.cli.commands import main

RECIPE = """
recipe: a line
seed: 0
data: {use: "line.py:batches"}
model: {use: Linear, in_features: 3, out_features: 2}
loss: mse
optimizer: {use: SGD, lr: 0.1}
callbacks: {Progress: null}
fit: {epochs: 1}
"""
CODE = """
from pathlib import Path
import torch
from learner import Data

def batches():
    if Path("away").exists():
        raise FileNotFoundError("numbers.csv")
    return Data([(torch.rand(5, 3), torch.rand(5, 2))])
"""


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch, capsys):
    """A run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("line.yaml").write_text(RECIPE)
    Path("line.py").write_text(CODE)
    assert main(["run", "line.yaml"]) == 0
    capsys.readouterr()


def exported(path):
    return torch.export.load(path).module()(torch.ones(2, 3))


def test_the_model_of_a_run_is_exported(capsys):
    assert main(["export", "runs/line-1", "line.pt2"]) == 0
    printed = capsys.readouterr().out
    assert "line.pt2: a program of torch.export" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert exported("line.pt2").equal(learner.open_run("runs/line-1").predict(torch.ones(2, 3)))


def test_a_run_is_exported_without_its_data(recwarn):
    Path("away").touch()
    assert main(["export", "runs/line-1", "line.pt2"]) == 0
    assert exported("line.pt2").shape == (2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/line-2", "line.pt2"], "is not a run's folder"),
        (["line-1", "line.pt2"], "has no recipe.yaml. Did you mean runs/line-1?"),
        (["runs/line-1", "line.xyz"], "the suffix must be"),
        (
            ["runs/line-1", "line.pt2", "--weights", "best"],
            "such as EarlyStopping, monitors a result. It has other weights",
        ),
        (["runs/line-1", "line.pt2", "--dynamic", "4"], "pass dimensions of the inputs, which have 2"),
        (["runs/line-1", "line.pt2", "--dynamic", "x"], "invalid dimensions value"),
    ],
    ids=["no run", "no folder", "format", "no best weights", "dimension", "no number"],
)
def test_a_mistake_has_exit_code_2_and_no_traceback(words, message, capsys):
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
