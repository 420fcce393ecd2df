"""What loggers receive, and what their files contain."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from processes import run

from callbacks import Checkpoint, JSONLines, LearnerWarning, ScalarLogger, TensorBoard, on


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@on("before_step")
def crash(learn):
    if learn.global_step == 7:
        raise ZeroDivisionError


def test_a_function_gets_the_results_of_each_epoch_and_the_step(make_learner):
    called = []
    learn = make_learner(callbacks=[ScalarLogger(lambda values, step: called.append((step, values)))])
    history = learn.fit(2)
    assert [step for step, _ in called] == [3, 6]
    assert called[1][1] == {
        "epoch": 1,
        **{name: history[1][name] for name in ("train_loss", "valid_loss", "lr")},
    }


def test_of_steps_it_gets_the_loss_before_the_update_and_all_rates(make_learner):
    called = []
    write = lambda values, step: called.append((step, values))  # noqa: E731
    learn = make_learner(callbacks=[ScalarLogger(write, "2 steps")], valid=False)
    learn.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
    history = learn.fit(2)
    steps = [(step, values) for step, values in called if "loss" in values]
    assert [step for step, _ in steps] == [2, 4, 6]
    assert [values["loss"] for _, values in steps] == [history.steps["train_loss"][n] for n in (1, 3, 5)]
    assert steps[0][1]["lr_1"] == 0.5
    assert [step for step, values in called if "epoch" in values] == [3, 6]


def test_every_second_epoch_is_logged_where_asked(make_learner):
    called = []
    make_learner(callbacks=[ScalarLogger(lambda values, step: called.append(step), "2 epochs")]).fit(4)
    assert called == [6, 12]


def test_a_tracker_gets_the_settings_at_the_start_and_the_files_at_the_end(make_learner, tmp_path):
    seen, copies = [], {}

    def keep(path):
        copies[Path(path).name] = Path(path).read_text()

    lines = JSONLines(tmp_path / "log.jsonl")
    logger = ScalarLogger(lambda values, step: seen.append(step), settings=seen.append, file=keep)
    learn = make_learner(callbacks=[lines, logger])
    learn.fit(2)
    settings = seen[0]
    assert settings["model"] == type(learn.model).__name__
    assert settings["optimizer_lr"] == learn.optimizer.param_groups[0]["lr"]
    assert (settings["n_epochs"], settings["torch"]) == (2, torch.__version__)
    assert all(isinstance(value, (int, float, str)) for value in settings.values())
    assert seen[1:] == [learn.global_step // 2, learn.global_step]
    assert set(copies) == {"history.csv", "log.jsonl"}
    assert copies["history.csv"].splitlines()[0].startswith("epoch,train_loss")


def test_a_tracker_that_cannot_be_reached_does_not_end_the_fit(make_learner):
    def refuse(*given):
        raise ConnectionError("no network")

    learn = make_learner(callbacks=[ScalarLogger(refuse, settings=refuse, file=refuse)])
    with pytest.warns(LearnerWarning, match="no network.*Training continues"):
        learn.fit(2)
    assert len(learn.history) == 2


OFFLINE = """
import sys
import torch
from functools import partial
from callbacks import ScalarLogger
from learner.learner import Learner

x = torch.ones(4, 1)
data = ([(x, x)] * 2, [(x, x)])


def fit(write, settings=None, file=None):
    logger = ScalarLogger(write, settings=settings, file=file)
    sgd = partial(torch.optim.SGD, lr=0.1)
    Learner(torch.nn.Linear(1, 1), data, torch.nn.functional.mse_loss, sgd, [logger]).fit(2)
"""
TRACKERS = {
    "mlflow": """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run() as run:
    fit(lambda values, step: mlflow.log_metrics(values, step=step), mlflow.log_params, mlflow.log_artifact)
found = mlflow.get_run(run.info.run_id).data
assert found.params["model"] == "Linear" and "valid_loss" in found.metrics
(file,) = mlflow.MlflowClient().list_artifacts(run.info.run_id)
assert file.path == "history.csv"
""",
    "wandb": """
import wandb
wandb.init(mode="offline", project="p")
fit(lambda values, step: wandb.log(values, step=step), wandb.config.update, wandb.log_artifact)
assert wandb.config["model"] == "Linear" and "valid_loss" in dict(wandb.run.summary)
wandb.finish()
""",
    "trackio": """
import trackio
from pathlib import Path
trackio.init(project="p", auto_log_cpu=False)
fit(lambda values, step: trackio.log(values, step=step), trackio.config.update, trackio.save)
trackio.finish()
assert Path("tracked/media/p/files/history.csv").is_file()
""",
}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_line_for_a_tracker_works_without_a_network(tracker, tmp_path):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    home = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "tracked"), "WANDB_SILENT": "true"}
    done = run("-c", OFFLINE + TRACKERS[tracker], cwd=tmp_path, env=home)
    assert done.returncode == 0, done.stderr


def test_json_lines_hold_what_was_measured_with_all_digits(make_learner, tmp_path):
    path = tmp_path / "runs" / "log.jsonl"
    history = make_learner(callbacks=[JSONLines(path)]).fit(2)
    lines = lines_of(path)
    assert [(line["step"], line["epoch"]) for line in lines] == [(3, 0), (6, 1)]
    assert [line["valid_loss"] for line in lines] == list(history["valid_loss"])


def test_json_has_no_nan_so_it_is_null(make_learner, tmp_path):
    @on("after_train")
    def spoil(learn):
        learn.results |= {"odd": math.nan, "far": math.inf}

    make_learner(callbacks=[JSONLines(tmp_path / "log.jsonl"), spoil]).fit(1)
    line = lines_of(tmp_path / "log.jsonl")[0]
    assert (line["odd"], line["far"]) == (None, None)


def test_an_existing_file_is_not_changed_unless_asked(make_learner, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(FileExistsError, match="append=True"):
        make_learner(callbacks=[JSONLines(path)]).fit(1)
    assert path.read_text() == '{"step": 1}\n'
    make_learner(callbacks=[JSONLines(path, append=True)]).fit(1)
    assert [line["step"] for line in lines_of(path)] == [1, 3]


def test_a_second_fit_continues_in_the_file(make_learner, tmp_path):
    learn = make_learner(callbacks=[JSONLines(tmp_path / "log.jsonl")])
    learn.fit(1)
    learn.fit(1)
    assert [line["step"] for line in lines_of(tmp_path / "log.jsonl")] == [3, 6]


def test_a_resumed_run_has_each_step_once_also_after_half_a_line(make_learner, tmp_path):
    path = tmp_path / "log.jsonl"

    def make():
        return make_learner(callbacks=[JSONLines(path, "1 step"), Checkpoint(tmp_path / "run", "5 steps")])

    with pytest.raises(ZeroDivisionError):
        make().fit(4, callbacks=[crash])
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    make().fit(4, resume="must")
    lines = lines_of(path)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "valid_loss" in line] == [3, 6, 9, 12]


def test_tensorboard_reads_back_what_was_measured(make_learner, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = make_learner(callbacks=[TensorBoard(tmp_path, "1 step")]).fit(2)
    board = accumulator.EventAccumulator(str(tmp_path))
    board.Reload()
    assert [each.step for each in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [each.step for each in board.Scalars("valid_loss")] == [3, 6]
    read = [each.value for each in board.Scalars("valid_loss")]
    assert read == pytest.approx(list(history["valid_loss"]), rel=1e-6)  # event files hold float32


def test_tensorboard_hides_the_steps_that_are_done_again(make_learner, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def make():
        callbacks = [TensorBoard(tmp_path / "board", "1 step"), Checkpoint(tmp_path / "run", "5 steps")]
        return make_learner(callbacks=callbacks)

    with pytest.raises(ZeroDivisionError):
        make().fit(4, callbacks=[crash])
    make().fit(4, resume="must")
    board = accumulator.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [each.step for each in board.Scalars("loss")] == list(range(1, 13))


def test_without_the_package_the_error_has_the_command(monkeypatch, tmp_path):
    with pytest.raises(TypeError, match=r"TensorBoard\(folder=None\): pass the name of a folder"):
        TensorBoard(None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "plainlearner\[tensorboard\]"'):
        TensorBoard(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ScalarLogger("wandb"), "pass a function"),
        (lambda: ScalarLogger(print, "sometimes"), "write a positive number"),
        (lambda: JSONLines(""), "pass the name of a file"),
        (lambda: JSONLines(3), "pass the name of a file"),
    ],
)
def test_invalid_settings_are_refused(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
