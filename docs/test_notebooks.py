"""The notebooks run and show what a person expects; the checks of the course accept no wrong answer.

These tests take two minutes and run with the examples of the pages: `pytest -n auto docs/test_notebooks.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import notebooks
import outputs
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from wrong_answers import WRONG_ANSWERS

CHAPTERS = [pytest.param(page, id=page.stem) for page in notebooks.CHAPTERS]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_prints_what_its_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs.check(page)


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


# The notebooks of the examples ----------------------------------------------------------------------------


def outputs_of(notebook: NotebookNode, code: str) -> list[NotebookNode]:
    """What the cell with this code shows."""
    (cell,) = [cell for cell in notebook.cells if cell.source.endswith(code)]
    return cell.outputs


def shown(notebook: NotebookNode, code: str, kind: str) -> list[str]:
    """What the cell with this code shows of one MIME type, as `"image/png"`."""
    return [output.data[kind] for output in outputs_of(notebook, code) if kind in output.get("data", {})]


def printed(notebook: NotebookNode, code: str) -> str:
    """What the cell with this code prints."""
    return "".join(output.get("text", "") for output in outputs_of(notebook, code))


def test_the_notebook_of_digits_shows_tables_and_pictures():
    notebook = notebooks.run(read("digits.ipynb"))
    for code in ("\ndata", "\nlearn", "history = learn.fit_one_cycle(5, found.minimum)"):
        (table,) = shown(notebook, code, "text/html")
        assert table.startswith("<table>")
    for code in ("found.plot()", "history.plot()", "plot_confusion_matrix()", "plot_top_losses(6)"):
        assert len(shown(notebook, code, "image/png")) == 1


class Interrupting(NotebookClient):
    """Runs a notebook as a person who interrupts the cells with the tag `interrupt` after two epochs."""

    async def async_execute_cell(self, cell: NotebookNode, *args: Any, **options: Any) -> NotebookNode:
        if "interrupt" not in cell.metadata.get("tags", []):
            return await super().async_execute_cell(cell, *args, **options)
        interruption = asyncio.ensure_future(self.interrupt(cell))
        done = await super().async_execute_cell(cell, *args, **options)
        await interruption
        return done

    async def interrupt(self, cell: NotebookNode) -> None:
        while str(cell.outputs).count("<tr>") < 3:  # the head and two epochs
            await asyncio.sleep(0.05)
        await self.km.interrupt_kernel()  # what the stop button does


def test_a_fit_that_is_interrupted_from_outside_leaves_a_learner_that_trains():
    notebook = notebooks.run(read("callback.ipynb"), Interrupting)
    interrupted = outputs_of(notebook, "history = learn.fit(2000)")
    assert [output.ename for output in interrupted if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert "interrupted by Ctrl-C" in printed(notebook, "history = learn.fit(2000)")
    assert shown(notebook, "learn.stop_reason", "text/plain") == ["'interrupted by Ctrl-C'"]
    (table,) = shown(notebook, "history = learn.fit(2)", "text/html")
    assert table.count("<tr>") == 3
    (table,) = shown(notebook, "history", "text/html")
    assert "sure_and_wrong" in table


def read(name: str) -> NotebookNode:
    """A notebook of the examples."""
    return nbformat.read(notebooks.NOTEBOOKS.parent / name, as_version=4)
