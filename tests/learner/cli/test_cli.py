"""The command line: verbs, exit codes, and what is on the screen."""

from __future__ import annotations

import csv
import multiprocessing
import signal
import sys
from pathlib import Path

import pytest
from processes import run, start

from callbacks import EarlyStopping, History, LearnerWarning
from learner.cli import machine
from learner.cli.commands import main
from learner.recipes import names
from learner.recipes.recipe import load_recipe
from learner.runs.running import run as run_recipe

EXAMPLES = Path(__file__).parents[3] / "examples"
SAVING = ("callbacks.Checkpoint.folder=saved", "callbacks.Checkpoint.every=7 steps")

RMSES = (
    "74.96194346966999",
    "36.43029986215973",
    "22.692756149058336",
    "19.006926227796704",
    "18.225665028268686",
    "18.073917779669408",
    "18.04494798288646",
    "18.039351786874853",
    "18.03818276871748",
    "18.037850320630035",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in an empty folder, and forget the modules of recipes afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    yield
    sys.modules.pop("models", None)


@pytest.fixture
def first(capsys: pytest.CaptureFixture[str]) -> Path:
    """The recipe that `learner init` writes."""
    assert main(["init", "first"]) == 0
    capsys.readouterr()
    return Path("first/recipe.yaml")


def history_of(folder: str) -> list[dict[str, str]]:
    """The rows of a run's history."""
    with (Path(folder) / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_article_prints_its_ten_digits_and_where_it_kept_the_picture(capsys):
    assert main(["run", str(EXAMPLES / "article.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = [
        "kept runs/article-1: model.safetensors, models.py, plot_snapshots.png,",
        "  recipe.yaml, run.json",
        "open it in Python: learner.open_run('runs/article-1')",
    ]
    assert lines == [*(f"RMSE: {rmse}" for rmse in RMSES), *kept]
    assert Path("runs/article-1/plot_snapshots.png").read_bytes().startswith(b"\x89PNG")


def test_the_kept_run_runs_by_itself_with_the_same_digits(capsys):
    main(["run", str(EXAMPLES / "article.yaml")])
    sys.modules.pop("models", None)
    capsys.readouterr()
    assert main(["run", "runs/article-1/recipe.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[:10] == [f"RMSE: {rmse}" for rmse in RMSES]


def test_a_first_recipe_runs_at_once_and_is_never_written_over(first, capsys):
    assert main(["run", str(first), "fit.epochs=2"]) == 0
    rows = history_of("runs/recipe-1")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["largest_weight"]) > 0
    text = first.read_text()
    assert main(["init", "first"]) == 2
    assert first.read_text() == text
    assert "learner init" in capsys.readouterr().err


def test_a_run_never_writes_into_a_folder_that_is_there(first):
    Path("runs/recipe-7").mkdir(parents=True)
    for _ in range(2):
        assert main(["run", str(first), "fit.epochs=1"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["recipe-7", "recipe-8", "recipe-9"]
    assert not list(Path("runs/recipe-7").iterdir())


def test_a_run_can_be_kept_elsewhere_or_not_at_all(first):
    assert main(["run", str(first), "fit.epochs=1", "--runs", "other/place"]) == 0
    assert main(["run", str(first), "fit.epochs=1", "--keep-nothing"]) == 0
    assert [path.name for path in Path("other/place").iterdir()] == ["recipe-1"]
    assert not Path("runs").exists()


def test_callbacks_that_write_files_write_into_the_runs_folder(first):
    assert main(["run", str(first), "fit.epochs=1", "callbacks.CSVLogger.path=log.csv"]) == 0
    assert Path("runs/recipe-1/log.csv").exists()
    assert not Path("log.csv").exists()


def test_overrides_may_stand_before_and_after_options(first):
    assert (
        main(["run", str(first), "fit.epochs=1", "--runs", "here", "optimizer.lr=0.5", "model.n_hidden=3"])
        == 0
    )
    kept = load_recipe("here/recipe-1/recipe.yaml").tree.plain()
    assert (kept["optimizer"]["lr"], kept["model"]["n_hidden"], kept["fit"]["epochs"]) == (0.5, 3, 1)


def test_an_error_in_training_is_shown_whole_and_what_was_recorded_is_kept(first, capsys):
    models = first.with_name("models.py")
    broken = (
        "    def after_epoch(self, learn):\n        if learn.epoch:\n            raise KeyError('planted')\n"
    )
    models.write_text(models.read_text() + broken)
    assert main(["run", str(first)]) == 1
    shown = capsys.readouterr()
    assert "Traceback" in shown.err
    assert "KeyError: 'planted'" in shown.err
    assert "in callback LargestWeight" in shown.err
    assert "kept runs/recipe-1" in shown.out
    assert len(history_of("runs/recipe-1")) == 1


def test_a_refused_fit_leaves_no_folder(first, capsys):
    assert main(["run", str(first), "callbacks.EarlyStopping.monitor=valid_los"]) == 2
    assert "valid_loss" in capsys.readouterr().err
    assert not list(Path("runs").iterdir())


def test_show_prints_the_resolved_recipe_and_the_composed_loop(first, capsys):
    assert main(["show", str(first), "optimizer.lr=0.5"]) == 0
    shown = capsys.readouterr().out
    assert "{use: Adam, lr: 0.5}" in shown
    assert "before_fit" in shown
    assert "LargestWeight" in shown


def test_check_trains_nothing_and_keeps_nothing(first, capsys):
    assert main(["check", str(first)]) == 0
    assert "no problems" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_check_reports_an_error_at_its_key_in_the_recipe(first, capsys):
    assert main(["check", str(first), "loss=cross_entropy"]) == 2
    shown = capsys.readouterr().err
    assert "command line:1:1: preds have shape (32, 1)" in shown
    assert "loss=cross_entropy\n    ^" in shown


def test_a_run_with_preds_of_another_shape_points_at_the_recipe(first, capsys):
    models = first.with_name("models.py")
    models.write_text(models.read_text().replace("return self.layers(x)", "return self.layers(x).squeeze(1)"))
    assert main(["run", str(first)]) == 2
    shown = capsys.readouterr().err
    assert "first/recipe.yaml:" in shown
    assert "preds" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("plural", [kind.plural for kind in names.KINDS.values()])
def test_ls_has_a_line_for_each_name_that_fits_the_screen(plural, capsys):
    assert main(["ls", plural]) == 0
    lines = capsys.readouterr().out.splitlines()
    kind = next(name for name, kind in names.KINDS.items() if kind.plural == plural)
    assert [line.split()[0] for line in lines] == names.known(kind)
    if plural == "callbacks":
        assert names.known(kind) == sorted(names.known(kind), key=str.lower)
    assert max(map(len, lines)) <= 80


def test_ls_shows_one_name_in_detail(capsys):
    assert main(["ls", "EarlyStopping"]) == 0
    shown = capsys.readouterr().out
    assert "patience: " in shown
    assert "Stop when a result" in shown


def test_lr_find_prints_suggestions_draws_them_and_trains_nothing(first, capsys):
    assert main(["lr-find", str(first), "--steps", "40", "--plot", "lr.png"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[:4]] == ["valley", "slide", "minimum/10", "steep"]
    assert "learner run first/recipe.yaml optimizer.lr=" in shown
    assert Path("lr.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("runs").exists()
    assert main(["lr-find", str(first), "--steps", "3"]) == 2
    assert "n_steps=3" in capsys.readouterr().err


def test_lr_find_reports_that_a_schedule_sets_the_rate(first, capsys):
    schedule = "callbacks.ParamScheduler.schedules.lr={use: cos, start: 0.1, end: 0.0}"
    assert main(["lr-find", str(first), schedule, "--steps", "40"]) == 0
    shown = capsys.readouterr().out
    assert "ParamScheduler sets the rate" in shown
    assert "learner run" not in shown


@pytest.mark.parametrize(
    "verb", [[], ["run"], ["check"], ["show"], ["lr-find"], ["ls"], ["init"], ["doctor"]]
)
def test_the_help_reads_well_at_80_columns(verb, capsys):
    assert main([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "usage: learner" in shown


def test_doctor_shows_versions_and_devices(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torch", "python", "cpu", "callbacks     ours", "scikit-learn"))


def test_doctor_names_a_broken_package_and_continues(tmp_path, monkeypatch, capsys):
    (tmp_path / "brittle.py").write_text("raise OSError('libbrittle.so: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(machine.OPTIONAL, "brittle", "brittle")
    assert main(["doctor"]) == 0
    assert "BROKEN: OSError: libbrittle.so: cannot open; pip install" in capsys.readouterr().out


def test_a_broken_package_is_reported_where_a_recipe_uses_it(first, tmp_path, monkeypatch, capsys):
    (tmp_path / "brittle-1.0.dist-info").mkdir()
    (tmp_path / "brittle-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: brittle\nVersion: 1.0\n"
    )
    points = "[plainlearner.callbacks]\nBrittle = brittle:Brittle\n"
    (tmp_path / "brittle-1.0.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "brittle.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", str(first), "callbacks.Brittle={}"]) == 2
    assert "the installed package brittle provides Brittle, but cannot be imported" in capsys.readouterr().err
    assert main(["ls", "callbacks"]) == 0
    assert "BROKEN" in capsys.readouterr().out


def test_a_recipe_can_name_what_an_installed_package_provides(first, tmp_path, monkeypatch):
    (tmp_path / "solid-1.0.dist-info").mkdir()
    (tmp_path / "solid-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: solid\nVersion: 1.0\n"
    )
    points = "[plainlearner.callbacks]\nSolid = solid:Solid\n"
    (tmp_path / "solid-1.0.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "solid.py").write_text("from callbacks import Callback\nclass Solid(Callback):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    learn = load_recipe(first, ["callbacks.Solid={}"]).build()
    assert learn.callbacks.solid is not None


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rn", "x.yaml"], "Did you mean `learner run`?"),
        (["first/recipe.yaml"], "learner run first/recipe.yaml"),
        (["run", "frist/recipe.yaml"], "Did you mean first/recipe.yaml?"),
        (["run", "first"], "first/recipe.yaml"),
        (["run"], "required: recipe"),
        (["run", "optimizer.lr=3"], "Write the recipe first"),
        (["run", "first/recipe.yaml", "--sped"], "unrecognized arguments: --sped"),
        (["run", "first/recipe.yaml", "--runs", "first/recipe.yaml"], "--keep-nothing"),
        (["ls", "calbacks"], "Did you mean callbacks?"),
        (["ls", "first/recipe.yaml"], "The kinds are"),
        (["init", "first/recipe.yaml"], "Choose another folder"),
        ([], "learner init first"),
    ],
)
def test_a_mistake_on_the_command_line_gets_exit_code_2_and_a_hint(first, words, hint, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert hint in shown
    assert "Traceback" not in shown


def test_traceback_shows_where_a_problem_was_found(first, capsys):
    first.with_name("models.py").write_text("def broken(:\n")
    assert main(["run", str(first), "--traceback"]) == 2
    assert "SyntaxError" in capsys.readouterr().err


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
@pytest.mark.parametrize(("words", "code"), [(["run", "RECIPE"], 0), (["ls"], 1), (["show", "RECIPE"], 1)])
def test_output_to_a_full_disk_is_reported_in_one_line(first, words, code):
    with Path("/dev/full").open("w") as full:
        done = run(
            "-m", "learner", *(str(first) if each == "RECIPE" else each for each in words), stdout=full
        )
    assert done.returncode == code
    assert done.stderr.count("No space left") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


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


@pytest.mark.parametrize("again", [["resume", "runs/recipe-1"], ["run", "RECIPE", *SAVING, "--resume"]])
def test_a_killed_run_resumes_in_its_folder_with_the_same_numbers(first, again, capsys):
    assert main(["run", str(first), *SAVING, "--runs", "whole"]) == 0
    models = first.with_name("models.py")
    with models.open("a", encoding="utf-8") as file:
        file.write(KILLER)
    words = ["run", str(first), *SAVING, "callbacks.Kill={use: 'models.py:Kill'}"]
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


def test_resume_without_a_run_starts_one_and_prints_it(first, capsys):
    assert main(["run", str(first), *SAVING, "--resume", "fit.epochs=1"]) == 0
    assert "no run of recipe.yaml with a checkpoint in runs: starting a new one" in capsys.readouterr().out
    assert Path("runs/recipe-1/saved").is_dir()


def test_a_finished_run_can_be_extended(first, capsys):
    assert main(["run", str(first), *SAVING, "fit.epochs=1"]) == 0
    assert main(["resume", "runs/recipe-1", "fit.epochs=2"]) == 0
    assert len(history_of("runs/recipe-1")) == 2
    assert "epochs: 2" in Path("runs/recipe-1/recipe.yaml").read_text()
    assert main(["resume", "runs/recipe-1"]) == 0
    assert "already finished (epoch 2 of 2)" in capsys.readouterr().out


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
        (["resume", "runs/recipe-1", "--differ", "batchsize"], "is not a known difference"),
        (["run", "first/recipe.yaml", *SAVING, "--resume", "optimizer.lr=0.5"], "has changed since the run"),
        (["resume", "runs/recipe-2"], "has no checkpoint"),
        (["verify-resume", "first/recipe.yaml", "--kills", "1"], "n_kills=1"),
        (["replay", "runs/recipe-1"], "blackbox.pt"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused_and_left_unchanged(first, words, hint, capsys):
    assert main(["run", str(first), *SAVING, "fit.epochs=2"]) == 0
    assert main(["run", str(first), *SAVING, "fit.epochs=1"]) == 0
    for path in Path("runs/recipe-2/saved").glob("*.pt"):
        path.unlink()
    capsys.readouterr()
    kept = {str(path): path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert main(words) == 2
    assert hint in capsys.readouterr().err
    assert {str(path): path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == kept


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
