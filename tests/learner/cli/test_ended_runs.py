"""Runs that a signal, a full disk, a closed pipe or an error ends: exit codes, and what is kept."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import run, start
from small_files import small_files
from upper.recipe_files import SAVING, history_of

from callbacks import EarlyStopping, History, LearnerWarning
from learner.cli.commands import main
from learner.recipes.recipe import load_recipe
from learner.runs.running import run as run_recipe


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_the_run_with_its_code_and_the_command_that_resumes_it(first, name, code):
    process = start(
        "-m", "learner", "run", str(first), *SAVING, "fit.epochs=1_000_000", "callbacks.EarlyStopping=null"
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "kept runs/recipe-1" in out
    assert "to resume: learner resume runs/recipe-1" in out
    assert Path("runs/recipe-1/history.csv").exists()


def without_reader(*words: str, send: signal.Signals | None = None) -> tuple[int, str]:
    """The exit code and standard error of a command whose output is closed."""
    process = start("-m", "learner", *words)
    assert process.stdout is not None
    assert process.stderr is not None
    if send is not None:
        process.stdout.readline()
    process.stdout.close()
    if send is not None:
        process.send_signal(send)
    shown = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=60), shown


def test_the_reader_of_a_pipe_may_close_it(first):
    code, shown = without_reader("ls", "models")
    assert code == 1
    assert "Traceback" not in shown
    assert "Exception" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("send", "code"),
    [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["end", "Ctrl-C", "SIGTERM"],
)
def test_a_run_whose_output_is_closed_ends_with_the_code_of_the_training(first, send, code):
    many = () if send is None else ("fit.epochs=1_000_000", "callbacks.EarlyStopping=null")
    ended, shown = without_reader("run", str(first), *many, send=send)
    assert ended == code, shown
    assert "Traceback" not in shown
    assert Path("runs/recipe-1/history.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("words", "code"),
    [(["run", "RECIPE"], 0), (["ls"], 1), (["show", "RECIPE"], 1), (["check", "RECIPE"], 1)],
)
def test_output_to_a_full_disk_is_reported_in_one_line(first, words, code):
    with Path("/dev/full").open("w") as full:
        done = run(
            "-m", "learner", *(str(first) if each == "RECIPE" else each for each in words), stdout=full
        )
    assert done.returncode == code
    assert done.stderr.count("No space left") == 1
    assert ("continues" in done.stderr) is (words[0] == "run")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_command_that_only_prints_is_silent_if_its_output_is_closed(first, command):
    _, shown = without_reader(command, str(first))
    assert shown == ""


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_results_that_cannot_be_written_do_not_hide_the_error_of_the_training(first, monkeypatch, ending):
    def full(history, path):
        raise OSError(28, "No space left on device")

    def end(learn):
        raise ending("mine")

    monkeypatch.setattr(History, "to_csv", full)
    monkeypatch.setattr(EarlyStopping, "cleanup_fit", lambda self, learn: end(learn))
    with pytest.warns(LearnerWarning, match="cannot be written to"), pytest.raises(ending, match="mine"):
        run_recipe(load_recipe(str(first)))


def without_seconds(folder: str) -> list[dict[str, str]]:
    return [{name: row[name] for name in row if name != "seconds"} for row in history_of(folder)]


FIVE_EPOCHS = (*SAVING, "fit.epochs=5")


@pytest.mark.parametrize("again", [["resume", "runs/recipe-1"], ["run", "RECIPE", *FIVE_EPOCHS, "--resume"]])
def test_a_killed_run_resumes_in_its_folder_with_the_same_numbers(first, again, capsys):
    assert main(["run", str(first), *FIVE_EPOCHS, "--runs", "whole"]) == 0
    models = first.with_name("models.py")
    with models.open("a", encoding="utf-8") as file:
        file.write(KILLER)
    words = ["run", str(first), *FIVE_EPOCHS, "callbacks.Kill={use: 'models.py:Kill'}"]
    process = multiprocessing.get_context("fork").Process(target=main, args=(words,))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    (Path("runs/recipe-1/recipe.yaml")).write_text(
        "".join(
            line
            for line in Path("runs/recipe-1/recipe.yaml").read_text().splitlines(keepends=True)
            if "Kill" not in line
        )
    )
    assert main([str(first) if word == "RECIPE" else word for word in again]) == 0
    assert "resuming from step-0000000" in capsys.readouterr().out
    assert without_seconds("runs/recipe-1") == without_seconds("whole/recipe-1")
    assert not Path("runs/recipe-2").exists()


KILLER = """

import os, signal

class Kill(Callback):
    def after_step(self, learn):
        if learn.global_step == 40:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "words", [["run", "first/recipe.yaml"], ["sweep", "first/recipe.yaml", "optimizer.lr=0.1,0.2"]]
)
def test_a_disk_that_is_full_before_a_run_leaves_no_folder(first, words, capsys):
    with small_files():
        assert main(words) == 2
    assert "runs cannot be kept in" in capsys.readouterr().err
    assert not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    "words", [["predict", "--input", "x.csv", "--output", "preds.pt"], ["export", "m.pt"]]
)
def test_a_full_disk_is_reported_with_the_file_that_cannot_be_written(first, words, capsys):
    assert main(["run", str(first), "fit.epochs=1"]) == 0
    Path("x.csv").write_text("x\n1\n2\n")
    with small_files():
        assert main([words[0], "runs/recipe-1", *words[1:]]) == 2
    assert f"{words[-1]} cannot be written: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_verify_resume_with_its_child(first, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("-m", "learner", "verify-resume", str(first), "fit.epochs=1_000_000")
    for _ in range(600):
        if list(tmp_path.glob("verify-resume-*/whole/log")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
