"""The benchmarks that compare frameworks run, and compare the same work. Their times are not tested."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).parents[1]
FOLDER = HOME / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> str:
    """The output of one tiny round, for us and for a framework that may be missing."""
    command = [sys.executable, str(FOLDER / "peers.py"), "1", "--scale", "0.02", "--only", "ours", "fastai"]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_has_a_row_for_each_workload_and_lists_what_is_not_installed(table):
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| 1 (" in line]
    assert len(rows) == 5
    missing = importlib.util.find_spec("fastai") is None
    assert ("fastai is not installed: ModuleNotFoundError" in table) == missing


def test_our_loop_ends_with_the_weights_of_the_plain_loop(table):
    ours = [line.split("|")[3] for line in table.splitlines() if "| 1 (" in line]
    assert [cell for cell in ours if "*" in cell or "~" in cell or "fails" in cell] == []


def test_another_model_than_the_plain_loops_is_marked():
    mark = load("peers").mark
    plain = {"loss": 2.0, "weights": [1.0]}
    assert mark({"loss": 2.0, "weights": [1.0]}, plain) == ""
    assert mark({"loss": 2.00001, "weights": [1.0001]}, plain) == "~"
    assert mark({"loss": 2.0001, "weights": [1.0]}, plain) == "*"
    assert mark({"loss": float("nan"), "weights": [1.0]}, plain) == "*"


def test_the_plain_script_prints_and_draws_what_the_articles_recipe_does(capsys):
    load("startup").check_article()
    assert capsys.readouterr().out == "same numbers: True; same picture: True\n"
