"""A recipe in several processes is one run: one folder, one output, one exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from ranks.in_ranks import in_ranks

from learner.cli import commands

RECIPE = """\
seed: 0
data: {use: "models.py:points"}
model: {use: "models.py:Net"}
loss: mse
optimizer: {use: SGD, lr: 1e-2}
callbacks:
  Checkpoint: {folder: checkpoints, every: 1 epoch}
fit: {epochs: 2}
"""
CODE = """\
import os

import torch
from torch import nn

from callbacks import Callback
from learner import Data


def points():
    x = torch.randn(16, 2)
    return Data.from_tensors(x, x.sum(1, keepdim=True), 4, valid=0.25)


class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)


class Fail(Callback):
    def after_epoch(self, learn):
        if learn.epoch == 1:
            raise ArithmeticError("too high")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "wave.yaml").write_text(RECIPE)
    (tmp_path / "models.py").write_text(CODE)
    return tmp_path


def output_of(folder: Path, *words: str, **variables: Any) -> tuple[int, str]:
    """The exit code and the output of a command line in this process."""
    os.chdir(folder)
    os.environ |= variables
    commands.PATIENCE = 0.0
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = commands.main(words)
    return code, output.getvalue()


def test_processes_keep_one_run_and_print_once(folder):
    (code, text), (other, silence) = in_ranks(2, output_of, folder, "run", "wave.yaml")
    assert (code, other, silence) == (0, 0, "")
    assert text.count("training in 2 processes") == 1
    assert [each.name for each in (folder / "runs").iterdir()] == ["wave-1"]
    assert json.loads((folder / "runs/wave-1/run.json").read_text())["status"] == "finished"
    assert (folder / "runs/wave-1/history.csv").read_text().count("\n") == 3


def test_a_run_of_several_processes_resumes(folder):
    in_ranks(2, output_of, folder, "run", "wave.yaml", "fit.epochs=1")
    (code, text), (other, silence) = in_ranks(2, output_of, folder, "resume", "runs/wave-1", "fit.epochs=2")
    assert (code, other, silence) == (0, 0, "")
    assert "resuming from step-000000003.pt" in text
    assert len(list((folder / "runs").iterdir())) == 1


def test_a_run_that_torchrun_starts_again_resumes_in_its_own_folder(folder):
    first = {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "0"}
    words = ("run", "wave.yaml", "callbacks.Fail.use=models.py:Fail")
    (code, _), (other, _) = in_ranks(2, run_with, folder, words, first)
    assert (code, other) == (1, 1)
    again = {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}
    ((_, text), _) = in_ranks(2, run_with, folder, words, again)
    assert "resuming from step-000000003.pt" in text
    assert [each.name for each in (folder / "runs").iterdir()] == ["wave-1"]
    other_launch = {"TORCHELASTIC_RUN_ID": "b", "TORCHELASTIC_RESTART_COUNT": "1"}
    ((_, text), _) = in_ranks(2, run_with, folder, words, other_launch)
    assert "resuming" not in text


def run_with(folder: Path, words: tuple[str, ...], variables: dict[str, str]) -> tuple[int, str]:
    return output_of(folder, *words, **variables)


def test_different_recipes_are_refused_by_all(folder, tmp_path):
    found = in_ranks(2, run_own, folder)
    assert [code for code, _ in found] == [2, 2]
    assert all("wave.yaml: rank 1 read a different text than rank 0" in text for _, text in found)
    assert not (folder / "runs").exists()


def run_own(folder: Path) -> tuple[int, str]:
    """Each process has another learning rate."""
    return output_of(folder, "run", "wave.yaml", f"optimizer.lr=0.0{int(os.environ['RANK']) + 1}")


def test_a_folder_that_cannot_be_made_ends_all(folder):
    (folder / "runs").write_text("a file")
    (code, text), (other, words) = in_ranks(2, output_of, folder, "run", "wave.yaml")
    assert code == 2
    assert "runs cannot be kept in" in text
    assert other == 1
    assert "rank 0 failed, so rank 1" in words


def test_other_commands_are_refused(folder):
    found = in_ranks(2, output_of, folder, "check", "wave.yaml")
    assert [code for code, _ in found] == [2, 2]
    assert found[0][1] == "learner: `learner check` runs in one process: start it without torchrun.\n"


# What `torchrun` itself does.

SCRIPT = """\
import torch
from torch import nn

from callbacks import Checkpoint
from learner import Data, Learner

x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
data = Data.from_tensors(x, x.sum(1, keepdim=True), 8, valid=0.25, seed=0)
learn = Learner(nn.Linear(2, 1), data, nn.MSELoss(), torch.optim.Adam, Checkpoint("kept", best="valid_loss"))
if learn.ranks.is_first:
    print("before")
learn.lr_find(n_steps=20)
learn.fit(1)
learn.fit(1)
learn.load_best()
learn.save("last.pt")
n = len(learn.predict(x)), len(learn.validate())
if learn.ranks.is_first:
    print("after", *n, learn.global_step)
"""

KILL = """

class Fail(Callback):
    def after_batch(self, learn):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if learn.training and learn.global_step == 5 and learn.ranks.rank == 1 and first:
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def torchrun(tmp_path_factory):
    """Start a script or a module in two processes that train together."""
    forks = processes.in_forks(tmp_path_factory.mktemp("forks"))
    return partial(
        processes.run, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", env=forks
    )


def test_a_script_joins_the_group_prints_once_and_ends_without_warnings(torchrun, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = torchrun("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("before", "after"))] == ["before", "after 64 1 12"]
    assert lines.count("training in 2 processes, ddp") == 1
    assert done.stderr == ""
    assert (tmp_path / "last.pt").is_file()


def test_a_recipe_whose_rank_is_killed_restarts_and_ends_with_the_same_bits(torchrun, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "wave.yaml").write_text(RECIPE)
    (whole / "models.py").write_text(CODE)
    (killed / "models.py").write_text(CODE.partition("\n\nclass Fail")[0] + KILL)
    in_ranks(2, output_of, whole, "run", "wave.yaml", "fit.epochs=3")
    words = ("run", "wave.yaml", "fit.epochs=3", "callbacks.Fail.use=models.py:Fail")
    done = torchrun("--max-restarts=1", "-m", "learner", *words, cwd=killed)
    assert done.returncode == 0, done.stderr
    assert "resuming from step-000000003.pt" in done.stdout
    assert re.search("rank 1 (at epoch|does not answer)", done.stderr)  # however long torchrun takes
    assert [each.name for each in (killed / "runs").iterdir()] == ["wave-1"]
    ends = [torch.load(folder / "runs/wave-1/checkpoints/step-000000009.pt") for folder in (whole, killed)]
    assert all(torch.equal(ends[0]["model"][name], each) for name, each in ends[1]["model"].items())
