"""The notebooks run from top to bottom, and show what they say."""

import nbformat
import notebooks
import pytest
from nbclient import NotebookClient


@pytest.fixture
def outputs(examples, monkeypatch):
    """The outputs of all code cells, after a run in the examples' folder."""
    monkeypatch.setenv("PYTHONPATH", str(examples.parent))
    notebook = nbformat.read(examples / "article.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(examples)}}
    ).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebook_runs_and_shows_rmses_picture_and_table(outputs):
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    printed = "".join(
        output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"
    )
    assert "RMSE: 74.96194346966999" in printed
    assert "RMSE: 18.037850320630035" in printed
    assert "image/png" in shown[0]
    assert "<table>" in shown[1]["text/html"]
    assert "image/png" in shown[2]


@pytest.mark.parametrize("page", notebooks.CHAPTERS, ids=lambda page: page.stem)
def test_the_notebook_of_a_chapter_is_written_from_its_page(page):
    text = notebooks.path_of(page).read_text(encoding="utf-8")
    assert text == notebooks.text_of(page), f"out of date, run: python docs/notebooks.py {page.stem}"


def test_the_course_has_no_other_notebooks(examples):
    assert sorted((examples / "course").iterdir()) == [notebooks.path_of(page) for page in notebooks.CHAPTERS]


@pytest.mark.parametrize("name", ["article", "callback", "digits"])
def test_a_notebook_is_kept_without_outputs(examples, name):
    notebook = nbformat.read(examples / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
