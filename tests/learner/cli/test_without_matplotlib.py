"""Without matplotlib everything works that draws nothing; the rest names the package before it starts."""

from __future__ import annotations

import sys

import pytest

from callbacks import PlotSnapshots, Progress
from learner.cli.commands import main

MISSING = "matplotlib is missing: pip install matplotlib"


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_a_run_prints_that_nothing_is_drawn_and_then_its_numbers(first, capsys):
    assert main(["run", str(first), "fit.epochs=2"]) == 0
    out = capsys.readouterr().out
    assert out.index(f"the losses are not drawn: {MISSING}") < out.index("epoch  train_loss")
    assert "history.csv" in out
    assert main(["report", "runs/recipe-1"]) == 0
    assert f"left out: Curves: {MISSING}." in capsys.readouterr().out


def test_a_callback_that_draws_is_refused_before_training(first, capsys):
    assert main(["run", str(first), "callbacks.PlotSnapshots.n=2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"PlotSnapshots, which can be left out, draws a plot, but {MISSING}." in " ".join(err.split())
    assert "Traceback" not in err


def test_a_plot_that_is_asked_for_is_refused_before_the_search(first, capsys):
    assert main(["lr-find", str(first), "--plot", "rates.png"]) == 2
    assert capsys.readouterr() == ("", f"learner: --plot rates.png: {MISSING}.\n")


@pytest.mark.parametrize("make", [PlotSnapshots, lambda: Progress(plot=True)])
def test_the_error_in_python_names_the_package(make):
    with pytest.raises(ImportError, match=MISSING):
        make()
