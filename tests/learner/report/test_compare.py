"""Runs side by side: results with the best marked, curves together, settings that differ."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from learner import compare
from learner.cli.commands import main

RECIPE = """recipe: r
optimizer: {{use: Adam, lr: {lr}}}
data: {{use: digits, batch_size: 32}}
fit: {{epochs: 2}}
"""


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch):
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def make_run(place: Path, loss: float, accuracy: float, lr: float) -> Path:
    """The folder of a run of two epochs; the second one is worse."""
    place.mkdir(parents=True)
    lines = [f"0,{loss},{accuracy},1", f"1,{loss + 1},{accuracy / 2},1"]
    (place / "history.csv").write_text("epoch,valid_loss,valid_accuracy,seconds\n" + "\n".join(lines) + "\n")
    (place / "recipe.yaml").write_text(RECIPE.format(lr=lr))
    return place


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs: the first has the better loss, the second the better accuracy."""
    return [make_run(tmp_path / "a-1", 0.25, 0.5, 0.1), make_run(tmp_path / "b-1", 0.75, 0.875, 0.01)]


def test_the_best_of_each_result_is_marked_by_its_direction(runs, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"a-1 .* 0.5000 +0.2500\*", lines[1])
    assert re.match(r"b-1 .* 0.8750\* +0.7500", lines[2])


def test_only_settings_that_differ_are_listed(runs):
    assert compare(*runs).differences == {"optimizer.lr": ["0.1", "0.01"]}


def test_a_setting_that_one_run_lacks_is_listed(runs):
    recipe = runs[1] / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "callbacks: {EarlyStopping: {patience: 3}}\n")
    assert compare(*runs).differences["callbacks.EarlyStopping.patience"] == ["-", "3"]


def test_runs_of_other_lengths_and_results_are_compared(runs, tmp_path):
    (runs[1] / "history.csv").write_text("epoch,train_loss\n0,nan\n1,0.5\n2,0.25\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "recipe.yaml").write_text("{}")
    text = str(compare(*runs, empty))
    assert "0.2500" in text
    assert "*" not in text.replace("* is best", "")


@pytest.mark.parametrize("n_runs", [2, 9])
def test_everything_fits_the_terminal(n_runs, tmp_path):
    name = "a_run_with_a_rather_long_name_for_a_table"
    folders = [make_run(tmp_path / f"{name}-{n}", n + 1, 0.5, 10.0**-n) for n in range(n_runs)]
    text = str(compare(*folders))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("...") >= n_runs


def test_the_curves_use_only_characters_that_the_output_can_show(runs, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert str(compare(*runs)).isascii()


def test_a_learner_and_a_folder_are_compared(runs, learn):
    learn.fit(2)
    found = compare(runs[0], learn)
    assert found.names == ["a-1", "Linear"]
    assert found.value(found.records[1], "valid_loss") == min(learn.history["valid_loss"])


def test_runs_of_one_name_are_shown_by_their_paths(tmp_path):
    folders = [make_run(tmp_path / place / "r-1", 1, 0.5, 0.1) for place in ("x", "y")]
    assert compare(*folders).names == [str(each) for each in folders]


def test_the_page_has_the_curves_and_differences_of_all_runs(runs, tmp_path):
    output = tmp_path / "page.html"
    assert main(["compare", *map(str, runs), "--output", str(output)]) == 0
    page = output.read_text(encoding="utf-8")
    assert page.count('<svg role="img"') == 2
    assert "Best valid_accuracy: b-1, with 0.8750 in epoch 0." in page
    assert ">optimizer.lr</th><td>0.1</td><td>0.01</td>" in page


@pytest.mark.parametrize(
    ("chosen", "message"), [([0], "at least two"), ([0, 0], "given twice"), ([0, None], "does not exist")]
)
def test_what_cannot_be_compared_is_a_mistake(runs, chosen, message, capsys):
    assert main(["compare", *(str(runs[n]) if n is not None else "typo" for n in chosen)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "words"),
    [((1, 2), "compare: 1 is neither a folder of a run nor a learner"), ((["a"],), r"compare\(\*runs\)")],
)
def test_what_is_not_a_run_is_refused(chosen, words):
    with pytest.raises(TypeError, match=words):
        compare(*chosen)
