"""The report of a run: one file, complete, escaped, readable on any screen."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import product
from pathlib import Path
from typing import ClassVar

import pytest
from browser import CHROMIUM, Browser

from callbacks import EMA, Callback, Checkpoint, EarlyStopping, LRMonitor
from learner.cli.commands import main
from learner.report.records import record_of_folder

HISTORY = """epoch,train_loss,lr,valid_loss,valid_accuracy,seconds
0,2.5,0.1,2.6,0.25,1.5
1,1.5,0.05,1.25,0.75,1.5
2,1.0,0.01,1.75,0.5,1.5
"""
RECIPE = """# versions
recipe: a <b>bold</b> recipe & more
seed: 3
data: {use: digits, batch_size: 32}
model: {use: 'models.py:Net', n_hidden: 8}
optimizer: {use: Adam, lr: 0.003}
callbacks:
  EarlyStopping: {monitor: valid_accuracy, patience: 5}
fit: {epochs: 3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run, as an older version leaves it."""
    place = tmp_path / "digits-1"
    place.mkdir()
    (place / "history.csv").write_text(HISTORY)
    (place / "recipe.yaml").write_text(RECIPE)
    return place


def report_of(folder: Path) -> str:
    """The page that `learner report` writes."""
    assert main(["report", str(folder)]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """A page without its style and tags."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<wbr>|<[^>]+>", "", page, flags=re.DOTALL))


def test_the_monitored_result_comes_first_with_its_best_epoch(folder):
    text = text_of(report_of(folder))
    assert text.index("0.7500 valid_accuracy best in epoch 1") < text.index(
        "1.2500 valid_loss best in epoch 1"
    )


def test_losses_and_metrics_come_before_other_numbers(folder):
    rows = "0,1.5,7,2.5,2.6\n1,1.5,7,2.5,2.5\n"
    (folder / "history.csv").write_text("epoch,grad_norm,n_wrong,train_loss,valid_loss\n" + rows)
    results, curves = text_of(report_of(folder)).split("Curves")[:2]
    assert results.index("train_loss2.5") < results.index("grad_norm1.5") < results.index("n_wrong7")
    assert curves.index("best valid_loss") < curves.index("grad_norm")


def test_the_lines_of_a_result_have_the_order_and_so_the_colours_of_the_plot_of_a_history(folder):
    (folder / "history.csv").write_text("epoch,valid_loss,train_loss\n0,3,2.5\n1,2.5,1.5\n2,2,1\n")
    curves = text_of(report_of(folder)).split("Curves")[1]
    legend = curves[curves.index("best valid_loss") + len("best valid_loss") :]
    assert legend.index("train_loss") < legend.index("valid_loss")


def test_the_report_names_the_settings_and_how_to_reproduce_the_run(folder):
    text = text_of(report_of(folder))
    assert "optimizer" in text
    assert "Adam, lr: 0.003" in text
    assert f"learner run {folder}/recipe.yaml" in text


def test_the_facts_of_the_run_are_shown(folder):
    facts = {
        "status": "failed",
        "started": "2026-11-28T07:22:05+00:00",
        "seconds": 3725,
        "error": "ValueError: too hot",
        "n_parameters": 1234567,
        "environment": {"torch": "2.13.0", "device": "cpu (x86_64)"},
        "monitored": {"name": "valid_f9", "direction": "max", "value": 0.5, "epoch": 1},
        "warnings": ["the data is small"],
    }
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "history.csv").write_text("epoch,valid_loss,valid_f9\n0,1.0,0.25\n1,2.0,0.5\n")
    text = text_of(report_of(folder))
    assert "0.5000 valid_f9 best in epoch 1" in text
    for words in (
        *("failed · 2026-11-28 07:22:05 UTC · 2 epochs · 1 h 2 min", "too hot", "1,234,567"),
        *("torch 2.13.0", "the data is small"),
    ):
        assert words in text.replace("torch2", "torch 2")


def test_text_of_the_user_is_escaped(folder):
    (folder / "<img src=x>.png").write_bytes(b"picture")
    (folder / "run.json").write_text('{"warnings": ["<script>alert(1)</script>"], "status": "<i>"}')
    page = report_of(folder)
    assert "<b>bold</b>" not in page
    assert not re.search(r"<script|<img src=x|<i>", page)
    assert "alert(1)" in page


def test_the_page_refers_to_nothing_outside_itself(folder):
    (folder / "plot.png").write_bytes(b"picture")
    page = report_of(folder)
    assert not re.search(r"https?:|<link|<script|@import", page)
    assert all(found.startswith(("#", "data:")) for found in re.findall(r'(?:src|href)="([^"]*)', page))


def test_each_figure_and_picture_has_a_description(folder):
    (folder / "plot.png").write_bytes(b"picture")
    page = report_of(folder)
    figures = re.findall(r"<(?:svg|img)[^>]*>", page)
    assert len(figures) == 4
    assert all(re.search(r'(?:alt|aria-label)="[^"]+"', figure) for figure in figures)


def test_names_inside_the_figures_of_a_page_differ(folder):
    names = re.findall(r'\bid="([^"]*)"', report_of(folder))
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize("name", ["recipe.yaml", "history.csv"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe: [", b"", b"{"])
def test_a_file_that_is_missing_or_damaged_does_not_prevent_a_report(folder, name, content, capsys):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert "</html>" in report_of(folder)
    assert content is not None or f"has no {name}" in capsys.readouterr().out


def test_a_run_without_a_finite_number_is_reported(folder):
    (folder / "history.csv").write_text("epoch,train_loss,note,seconds\n0,nan,x,1\n1,inf,,\n")
    assert "train_loss" in report_of(folder)


@pytest.mark.parametrize(
    "facts", ["[]", '{"monitored": "x", "environment": [], "warnings": "w"}', '{"monitored": {"name": 3}}']
)
def test_facts_of_another_kind_do_not_prevent_a_report(folder, facts):
    (folder / "run.json").write_text(facts)
    assert "0.7500" in report_of(folder)


def test_a_result_has_one_panel_for_all_its_data(folder):
    (folder / "history.csv").write_text(
        "epoch,train_loss,valid_loss,other_loss,norm,valid_log_loss\n0,1,2,3,4,5\n1,2,3,4,5,6\n"
    )
    page = report_of(folder)
    assert page.count('<svg role="img"') == 3
    for name in ("train_loss", "valid_loss", "other_loss"):
        assert f">{name}</text>" in page


def test_a_logarithmic_axis_has_numbers(folder):
    (folder / "history.csv").write_text("epoch,train_loss\n0,1000\n1,10\n2,0.1\n")
    page = report_of(folder)
    assert ">1000</text>" in page
    assert ">0.1</text>" in page
    assert "mathdefault" not in page


def test_names_in_any_script_are_drawn(folder):
    (folder / "history.csv").write_text("epoch,valid_精度,a$b$ $\\x\n,0.5,1\nx,0.6,2\n", encoding="utf-8")
    page = report_of(folder)
    assert "精度" in page
    assert "a$b$" in page


def test_a_folder_without_a_run_is_refused_with_the_runs_nearby(folder, capsys):
    assert main(["report", str(folder.parent)]) == 2
    assert str(folder) in capsys.readouterr().err
    assert main(["report", str(folder.parent / "typo")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_mistake(folder, capsys):
    assert main(["report", str(folder), "--output", str(folder)]) == 2
    assert "--output" in capsys.readouterr().err


def test_numbers_keep_their_types(folder):
    row = record_of_folder(folder).rows[1]
    assert row == {
        "epoch": 1, "train_loss": 1.5, "lr": 0.05, "valid_loss": 1.25, "valid_accuracy": 0.75, "seconds": 1.5
    }  # fmt: skip


def test_a_learner_reports_without_a_folder(make_learner, tmp_path):
    learn = make_learner(callbacks=[EarlyStopping(patience=1, min_delta=100)])
    learn.fit(5)
    found = learn.report(tmp_path / "deep" / "report.html")
    text = text_of(found.path.read_text(encoding="utf-8"))
    assert f"{learn.history.best('valid_loss')['valid_loss']:.4f} valid_loss best in epoch" in text
    assert "Stopped in epoch" in text
    assert "SGD, lr: 0.1" in text
    assert "<iframe" in found._repr_html_()


def test_a_learner_that_was_never_fitted_reports_that_it_has_no_result(learn):
    assert "No epoch has a result" in learn.report().html


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_the_page_fits_the_screen_and_follows_its_scheme(folder):
    (folder / "run.json").write_text(
        '{"command": "learner run ' + "long" * 80 + '", "n_parameters": 1234567}'
    )
    report_of(folder)
    with Browser() as browser:
        browser.open((folder / "report.html").as_uri())
        for width, scheme in product([390, 1280], ["light", "dark"]):
            browser.show(width, scheme)
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background))) > 384) == (scheme == "light")
        assert browser.problems == []


def test_a_learner_reports_what_its_callbacks_were_given_and_how_to_load_its_weights(make_learner, tmp_path):
    saving = Checkpoint(tmp_path / "run", best="valid_loss")
    learn = make_learner(callbacks=[EarlyStopping("train_loss", patience=7), EMA(0.9), saving, LRMonitor])
    learn.fit(2)
    text = " ".join(unescape(text_of(learn.report().html)).split())
    for name, words in {
        "EarlyStopping": "monitor: train_loss, patience: 7",
        "EMA": "decay: 0.9",
        "Checkpoint": "best: valid_loss",
        "LRMonitor": "with its defaults",
    }.items():
        assert re.search(rf"callbacks\.{name} ?{re.escape(words)}", text)
    assert "Progress" not in text
    assert f"learn.load_best('{tmp_path / 'run'}')" in text
    assert "learn.fit(n_epochs, resume='auto')" in text


def test_the_result_that_a_callback_monitors_comes_first(make_learner):
    class Counts(Callback):
        measures: ClassVar = {"n_wrong": "min"}

        def after_validate(self, learn):
            learn.results["n_wrong"] = 7 - learn.epoch

    learn = make_learner(callbacks=[Counts, EarlyStopping("n_wrong")])
    learn.fit(2)
    text = " ".join(text_of(learn.report().html).split())
    assert "Result 6 n_wrong best in epoch 1" in text  # a count stays a whole number
    assert "6.0000" not in text
