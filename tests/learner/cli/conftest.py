"""What the tests of the command line share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from learner.cli.commands import main


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
