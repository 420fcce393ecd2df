"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def first(capsys: pytest.CaptureFixture[str]) -> Path:
    """The recipe that `learner init` writes."""
    assert main(["init", "first"]) == 0
    capsys.readouterr()
    return Path("first/recipe.yaml")
