"""Each chapter of the course runs as a notebook, and its checks accept the solution and no wrong answer.

These tests take a minute and run with the examples of the pages: `pytest -n auto docs/test_notebooks.py`.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import matplotlib.pyplot as plt
import notebooks
import pytest
from nbformat import NotebookNode
from wrong_answers import WRONG_ANSWERS

CHAPTERS = [pytest.param(page, id=page.stem) for page in notebooks.CHAPTERS]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_runs_as_a_notebook_and_draws_its_pictures(page):
    notebook = notebooks.run(notebooks.notebook_of(page, solved=True))
    undrawn = [name for name, png in notebooks.pictures_of(notebook) if png is None]
    assert undrawn == []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_check_accepts_the_solution_and_has_a_hint_for_each_wrong_answer(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebooks.notebook_of(page).cells if cell.cell_type == "code"]
    solved = [cell for cell in notebooks.notebook_of(page, solved=True).cells if cell.cell_type == "code"]
    exercise, wrong = None, list(WRONG_ANSWERS[page.stem])
    for cell, right in zip(cells, solved, strict=True):
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            exercise = (cell, right)
        elif "check" in tags:
            assert exercise is not None, f"{page.name}: a check without an exercise"
            assert_hints(cell, *exercise, wrong.pop(0), names)
        if "exercise" not in tags and "raises-exception" not in tags:
            answer = exercise[1].source if "check" in tags and exercise else ""
            run(f"{answer}\n{cell.source}", names)
    assert not wrong, f"{page.name}: more lists of wrong answers than checks"


def assert_hints(
    check: NotebookNode,
    start: NotebookNode,
    right: NotebookNode,
    wrong: list[tuple[str, str, str]],
    names: dict[str, Any],
) -> None:
    """Does the check raise an AssertionError with a hint on the unchanged start and on each wrong answer?"""
    hint = hint_for(f"{start.source}\n{check.source}", names)
    assert " " in hint, f"on the start of the exercise, the check reports: {hint}"
    for old, new, expected in wrong:
        assert right.source.count(old) == 1, f"the solution must have {old!r} once"
        hint = hint_for(f"{right.source.replace(old, new)}\n{check.source}", names)
        assert re.search(expected, hint), f"with {new!r} for {old!r}, the check reports: {hint}"


def hint_for(code: str, names: dict[str, Any]) -> str:
    """The message of the check if it raises an AssertionError; other errors are not hints."""
    try:
        run(code, dict(names))
    except AssertionError as error:
        return str(error)
    return "right"


def run(code: str, names: dict[str, Any]) -> None:
    """Run some code silently."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)
    plt.close("all")  # pyplot warns about many open figures


def test_every_chapter_has_wrong_answers():
    assert set(WRONG_ANSWERS) == {page.stem for page in notebooks.CHAPTERS}
