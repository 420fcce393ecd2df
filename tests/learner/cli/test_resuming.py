"""The commands that resume, verify and replay a run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from upper.recipe_files import SAVING, history_of

from learner.cli.commands import main


def test_resume_without_a_run_starts_one_and_prints_it(first, capsys):
    assert main(["run", str(first), *SAVING, "--resume", "fit.epochs=1"]) == 0
    assert "no run of recipe.yaml with a checkpoint in runs: starting a new one" in capsys.readouterr().out
    assert Path("runs/recipe-1/saved").is_dir()


def test_a_finished_run_can_be_extended(first, capsys):
    assert main(["run", str(first), *SAVING, "fit.epochs=1"]) == 0
    assert main(["resume", "runs/recipe-1", "fit.epochs=2", "optimizer.lr=1e-2"]) == 0  # as it was
    assert len(history_of("runs/recipe-1")) == 2
    assert "epochs: 2" in Path("runs/recipe-1/recipe.yaml").read_text()
    assert main(["resume", "runs/recipe-1"]) == 0
    assert "already finished (epoch 2 of 2)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folder_of_two_runs(tmp_path_factory):
    """A folder with two runs of a recipe, of which the second has no checkpoint."""
    folder = tmp_path_factory.mktemp("two_runs")
    with contextlib.chdir(folder):
        assert main(["init", "first"]) == 0
        for epochs in (2, 1):
            assert main(["run", "first/recipe.yaml", *SAVING, f"fit.epochs={epochs}"]) == 0
        for path in Path("runs/recipe-2/saved").glob("*.pt"):
            path.unlink()
    return folder


@pytest.fixture
def two_runs(folder_of_two_runs, monkeypatch, capsys):
    """Work in that folder, which stays as it is."""
    monkeypatch.chdir(folder_of_two_runs)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "first/recipe.yaml", "--resume"], "Checkpoint: {folder: checkpoints, every: 1 epoch}"),
        (["run", "first/recipe.yaml", *SAVING, "--resume", "--keep-nothing"], "Omit one"),
        (["resume", "runs/recip-1"], "Did you mean runs/recipe-1?"),
        (
            ["resume", "first/recipe.yaml"],
            "To resume the newest run of a recipe: `learner run first/recipe.yaml --resume`.",
        ),
        (["resume", "runs/recipe-1", "fit.epochs=1"], "pass at least 2"),
        (["resume", "runs/recipe-1", "data.n_points=300"], "n_items: "),
        (["resume", "runs/recipe-1", "data.n_points=300"], "--differ content --differ n_batches"),
        (["resume", "runs/recipe-1", "fit.epochs=3", "optimizer.lr=0.5"], "optimizer of its checkpoint"),
        (["resume", "runs/recipe-1", "optimizer={use: Adam, eps: 0.1}"], "optimizer of its checkpoint"),
        (["resume", "runs/recipe-1", "--differ", "batchsize"], "is not a known difference"),
        (["run", "first/recipe.yaml", *SAVING, "--resume", "optimizer.lr=0.5"], "has changed since the run"),
        (["resume", "runs/recipe-2"], "has no checkpoint"),
        (["verify-resume", "first/recipe.yaml", "--kills", "1"], "n_kills=1"),
        (["replay", "runs/recipe-1"], "blackbox.pt"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused_and_left_unchanged(two_runs, words, hint, capsys):
    kept = {str(path): path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert main(words) == 2
    assert hint in " ".join(capsys.readouterr().err.split())
    assert {str(path): path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("lr: 0.01", "lr: 0.5", "Write lr: 0.01, as in the run."),
        (", lr: 0.01", "", "Write lr: 0.01, as in the run."),
        ("lr: 0.01", "lr: 0.01, eps: 0.1", "Omit eps."),
    ],
)
def test_a_changed_setting_of_the_optimizer_in_the_recipe_of_a_run_is_refused(first, old, new, hint, capsys):
    assert main(["run", str(first), *SAVING, "fit.epochs=1"]) == 0
    path = Path("runs/recipe-1/recipe.yaml")
    text = path.read_text()
    path.write_text(text.replace(old, new))
    assert main(["resume", "runs/recipe-1", "fit.epochs=2"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "recipe.yaml:8:" in shown
    assert hint in shown
    path.write_text(text)
    assert main(["resume", "runs/recipe-1", "fit.epochs=2"]) == 0


def test_a_step_with_an_error_is_kept_and_can_be_replayed(first, capsys):
    models = first.with_name("models.py")
    with models.open("a", encoding="utf-8") as file:
        file.write(SPOILER)
    assert main(["run", str(first), "callbacks.Spoil={use: 'models.py:Spoil'}"]) == 1
    assert Path("runs/recipe-1/blackbox/blackbox.pt").is_file()
    capsys.readouterr()
    with pytest.raises(FloatingPointError):
        main(["replay", "runs/recipe-1"])
    assert "Linear" in capsys.readouterr().out
    assert (
        main(["run", str(first), "callbacks.Spoil={use: 'models.py:Spoil'}", "callbacks.BlackBox=null"]) == 1
    )
    assert not Path("runs/recipe-2/blackbox").exists()


SPOILER = """

class Spoil(Callback):
    def before_batch(self, learn):
        if learn.global_step == 3:
            learn.inputs = (learn.inputs[0] / 0,)
"""


def test_verify_resume_prints_a_table(first, capsys):
    words = ["verify-resume", str(first), *SAVING, "--kills", "2", "fit.epochs=2"]
    assert main(words) == 0
    assert "3 of 3 runs" in capsys.readouterr().out


def test_the_command_can_be_called_as_the_main_of_its_package(capsys):
    from learner.cli import main as of_package

    assert of_package(["ls", "losses"]) == 0
    assert "mse" in capsys.readouterr().out
