"""`learner sweep`: many trainings of one recipe, with settings that Optuna suggests."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run

from callbacks import LearnerWarning
from callbacks.save.folder_lock import FolderLock
from learner.cli.commands import main
from learner.recipes.recipe import load_recipe
from learner.runs.search_space import read_settings

pytest.importorskip("optuna")

MODELS = """
import torch
from callbacks import Callback
from learner import Data

def line(n: int = 8, batch_size: int = 4, noise: float = 0.0):
    x = torch.linspace(0, 1, n)[:, None]
    return Data.from_tensors(x, 2 * x + 1 + noise, batch_size=batch_size, valid=0.5)

class Fails(Callback):
    def __init__(self, at: float = 1.0, interrupt: bool = False):
        super().__init__()
        self.at, self.interrupt = at, interrupt

    def before_epoch(self, learn):
        if learn.optimizer.param_groups[0]["lr"] == self.at:
            raise KeyboardInterrupt if self.interrupt else RuntimeError("out of luck")
"""
RECIPE = """
seed: 0
data: {use: "models.py:line"}
model: {use: Linear, in_features: 1, out_features: 1}
loss: mse
optimizer: {use: SGD, lr: 0.1}
fit: {epochs: 1}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in a folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("models.py").write_text(MODELS)
    Path("small.yaml").write_text(RECIPE)


def sweep(*words: str, code: int = 0) -> None:
    """Run `learner sweep small.yaml`."""
    assert main(["sweep", "small.yaml", *words]) == code


def trained(folder: str = "runs/small-sweep-1") -> list[float]:
    """The learning rate of each trial, in their order."""
    found = sorted(Path(folder, "trials").iterdir(), key=lambda each: int(each.name.partition("-")[2]))
    return [load_recipe(each / "recipe.yaml").tree.plain()["optimizer"]["lr"] for each in found]


def settings(*words: str) -> list[str]:
    """The settings that words describe, as they are shown."""
    return [str(each) for each in read_settings(words, "small.yaml", ())[0]]


def test_a_range_over_decades_is_logarithmic_and_whole_numbers_stay_whole():
    assert settings("lr=1e-4..1e-1", "noise=0.1..0.5", "batch_size=1..4", "n=8..800") == [
        "optimizer.lr: 0.0001 to 0.1, logarithmic",
        "data.noise: 0.1 to 0.5",
        "data.batch_size: 1 to 4",
        "data.n: 8 to 800, logarithmic",
    ]


def test_whole_ends_of_a_range_are_floats_for_an_argument_that_takes_floats():
    assert settings("lr=1..2", "momentum=0..1", "noise=0..1", "optimizer.weight_decay=1..20") == [
        "optimizer.lr: 1.0 to 2.0",
        "optimizer.momentum: 0.0 to 1.0",
        "data.noise: 0.0 to 1.0",
        "optimizer.weight_decay: 1.0 to 20.0, logarithmic",
    ]


def test_each_of_a_few_whole_numbers_is_trained_once(capsys):
    sweep("batch_size=1..2", "n=8,16")
    assert "4 trials: 4 finished" in capsys.readouterr().out


def test_choices_are_yaml_values():
    words = settings("optimizer=SGD,{use: Adam, lr: 0.01}", "seed=1,2", "loss=mse,huber_loss")
    assert words == ['optimizer: SGD, {"use": "Adam", "lr": 0.01}', "seed: 1, 2", "loss: mse, huber_loss"]


def test_each_combination_of_choices_is_trained_once_and_the_best_can_be_run(capsys):
    sweep("lr=1e-6,1e-1", "batch_size=2,4")
    out = capsys.readouterr().out
    assert trained() == [1e-6, 1e-6, 1e-1, 1e-1]
    assert "4 trials: 4 finished" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["run", "runs/small-sweep-1/best.yaml"]) == 0
    assert load_recipe("runs/small-sweep-1/best.yaml").tree.plain()["optimizer"]["lr"] == 0.1
    page = Path("runs/small-sweep-1/report.html").read_text(encoding="utf-8")
    assert page.count('<svg role="img"') == 2
    assert "learner run runs/small-sweep-1/best.yaml" in page


def test_only_the_best_trial_keeps_its_weights():
    sweep("lr=1e-6,1e-1,1e-3")
    kept = [path.parent.name for path in Path("runs/small-sweep-1/trials").glob("*/model.*")]
    assert kept == ["trial-1"]
    assert list(Path("runs/small-sweep-1/trials").glob("*/history.csv"))
    assert not list(Path("runs/small-sweep-1/trials").glob("*/losses.png"))


def test_the_suggestions_depend_on_the_seed_alone():
    sweep("lr=1e-4..1e-1", "--trials", "2")
    sweep("lr=1e-4..1e-1", "--trials", "2")
    sweep("lr=1e-4..1e-1", "--trials", "2", "--seed", "1")
    first, second, third = (trained(f"runs/small-sweep-{n}") for n in (1, 2, 3))
    assert first == second
    assert set(first).isdisjoint(third)


def test_a_resumed_sweep_makes_the_suggestions_of_one_that_was_not_interrupted():
    sweep("lr=1e-4..1e-1", "--trials", "3")
    sweep("lr=1e-4..1e-1", "--trials", "1")
    sweep("lr=1e-4..1e-1", "--trials", "3", "--resume")
    assert trained("runs/small-sweep-2") == trained("runs/small-sweep-1")
    assert not Path("runs/small-sweep-3").exists()


def test_a_trial_that_fails_is_recorded_and_the_others_are_trained(capsys):
    sweep("lr=1.0,0.1", "callbacks.Fails.use=models.py:Fails")
    assert "1 failed, 1 finished" in capsys.readouterr().out
    assert "out of luck" in Path("runs/small-sweep-1/report.html").read_text(encoding="utf-8")


def test_a_trial_that_cannot_be_built_is_recorded(capsys):
    sweep("n=8,0")
    assert "1 finished, 1 failed" in capsys.readouterr().out


def test_a_sweep_without_a_finished_trial_fails(capsys):
    sweep("lr=1.0,1e30", "data.noise=.nan", code=1)
    assert "no trial finished" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_done_and_the_interrupted_trial_is_trained_again(capsys):
    words = ("lr=0.1,1.0,0.01", "callbacks.Fails.use=models.py:Fails", "callbacks.Fails.interrupt=true")
    sweep(*words, code=130)
    out = capsys.readouterr().out
    assert "1 finished, 1 interrupted" in out
    assert "--resume" in out
    Path("models.py").write_text(MODELS.replace('["lr"] == self.at', '["lr"] == None'))
    sweep(*words, "--resume")
    assert "3 finished, 1 interrupted" in capsys.readouterr().out


def test_a_trial_that_is_not_promising_is_pruned(capsys):
    rates = ",".join(f"0.{n}" for n in range(11, 17))
    sweep(f"lr={rates},1e-6", "fit.epochs=3")
    assert "6 finished, 1 pruned" in capsys.readouterr().out


def test_a_sweep_with_another_plan_is_not_resumed(capsys):
    sweep("lr=0.1,0.2")
    sweep("lr=0.1,0.3", "--resume", code=2)
    assert "another settings" in capsys.readouterr().err


def test_a_sweep_that_another_process_runs_is_not_resumed(capsys):
    sweep("lr=0.1,0.2", "--trials", "1")
    lock = FolderLock(Path("runs/small-sweep-1").absolute())
    sweep("lr=0.1,0.2", "--resume", code=2)
    lock.release()
    assert "small-sweep-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lrr=0.1,0.2"], "Did you mean lr?"),
        (["lr=0.2..0.1"], "The lower end comes first: 0.1..0.2."),
        (["lr=0.1..inf"], "Write low..high"),
        (["lr=0.1..x"], "Write low..high"),
        (["lr=0.1,0.1"], "a choice is given twice"),
        (["lr=0.1,0.2", "optimizer.lr=0.1"], "given twice"),
        (["lr=-1..0.1"], "optimizer.lr"),
        (["optimizer.lrr=1..2"], "Did you mean lr?"),
        (["patience=1,2", "callbacks={EarlyStopping: {}, ReduceLROnPlateau: {}}"], "ambiguous"),
        (["lr=0.1"], "no setting varies"),
        (["lr=0.1,0.2", "--trials", "0"], "at least 1"),
        (["lr=0.1,0.2", "--maximize", "valid_loss"], "--minimize valid_loss"),
        (["lr=0.1,0.2", "--minimize", "valid_los"], "valid_loss"),
        (["lr=0.1,0.2", "--minimize", "lr", "--maximize", "lr"], "not allowed with"),
        (["lr=0.1,0.2", "--resume"], "no sweep"),
        (["lr=0.1,0.2", "defaults=[ZeroGrad]"], "Recorder"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_trained(words, message, capsys):
    sweep(*words, code=2)
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_learning_rate_that_a_schedule_replaces_is_reported():
    peak = "callbacks.ParamScheduler.schedules={lr: {use: one_cycle, start: 0.01, peak: 0.1, end: 0.0}}"
    with pytest.warns(
        LearnerWarning, match=r"ParamScheduler sets the learning rate, so optimizer\.lr has no"
    ):
        sweep("optimizer.lr=0.1,0.2", peak, "--trials", "1")
    sweep("callbacks.ParamScheduler.schedules.lr.peak=0.1,0.2", peak, "--trials", "1")  # warns of nothing


def test_a_warning_is_one_line_without_the_code_that_called():
    words = ["learner", "sweep", "small.yaml", "optimizer.lr=0.1,0.2", "--trials", "1"]
    words.append("callbacks.ParamScheduler.schedules={lr: {use: lin, start: 0.1, end: 0.0}}")
    done = run("-m", *words)
    assert done.stderr.startswith("warning: sweep: ParamScheduler sets the learning rate")
    assert done.stderr.count("\n") == 1
    assert "1 trial: 1 finished" in done.stdout
