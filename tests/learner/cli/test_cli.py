"""The command line: commands, exit codes, and what is on the screen."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from upper.recipe_files import history_of

from learner.cli import machine
from learner.cli.commands import main
from learner.recipes import names
from learner.recipes.recipe import load_recipe

EXAMPLES = Path(__file__).parents[3] / "examples"
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
    "command", [[], ["run"], ["check"], ["show"], ["lr-find"], ["ls"], ["init"], ["doctor"]]
)
def test_the_help_reads_well_at_80_columns(command, capsys):
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "usage: learner" in shown


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"plainlearner \d+\.\d+\S*", capsys.readouterr().out.strip())


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
    shown = " ".join(capsys.readouterr().err.split())
    assert "the installed package brittle provides Brittle, but cannot be imported" in shown
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
        (["run", "first/recipe.yaml", "--epochs", "3"], "have no --, as in fit.epochs=3"),
        (["run", "first/recipe.yaml", "--sped"], "See `learner run --help`"),
        (["runs", "--sped"], "learner runs: unrecognized arguments: --sped.\nSee `learner runs --help`"),
        (["run", "first/recipe.yaml", "n_epochs=3"], "fit.epochs=10"),
        (["run", "first/recipe.yaml", "lr=0.1"], "Write its full name: optimizer.lr=0.1."),
        (["run", "first/recipe.yaml", "patience=3"], "callbacks.EarlyStopping.patience=3."),
        (["run", "first/recipe.yaml", "model=models:Net"], 'Write `use: "models.py:Net"`.'),
        (["sweep", "first/recipe.yaml", "lr=1e-1..1e-3"], "The lower end comes first: 1e-3..1e-1."),
        (["run", "first/recipe.yaml", "--runs", "first/recipe.yaml"], "--keep-nothing"),
        (["run", "first/models.py"], "a recipe is a YAML file. Available: first/recipe.yaml."),
        (["run", "first/recipe.yaml", "optimizer.lr="], "optimizer.lr is empty"),
        (["lr-find", "first/recipe.yaml", "--plot", "lr.xyz"], "the suffix must be one of .eps"),
        (["lr-find", "first/recipe.yaml", "--plot", "first/models.py/lr.png"], "is a file, not a folder"),
        (["--quiet"], "learner: unrecognized arguments: --quiet.\nSee `learner --help`."),
        (["runs", "first"], "first has no runs"),
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


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["init", "first"], "learner init second."),
        (["run", "nothing.yaml"], "Available: first/recipe.yaml."),
        (["report", "nothing"], "Available: runs/recipe-1."),
    ],
)
def test_a_hint_names_what_exists_and_not_what_failed(first, words, hint, capsys):
    assert main(["run", str(first), "fit.epochs=1"]) == 0
    assert main(words) == 2
    assert hint in " ".join(capsys.readouterr().err.split())
