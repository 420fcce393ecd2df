"""Write the notebooks of the course, run them, and save the pictures that they draw.

    python docs/notebooks.py                  # write the notebook of every chapter
    python docs/notebooks.py 1_by_hand        # write this one, run it, and save its pictures

A chapter is one page, `docs/course/N_name.md`. Its notebook, `examples/course/N_name.ipynb`, has the same
text: each fence marked `python` becomes a cell. These marks mean more than on other pages:

* `python notest exercise`: the start of an answer, with a gap. The reader completes it.
* `python continuation solution`: the answer, in a `<details>` block. It is not a cell of the notebook.
* `python continuation check`: a cell that raises an AssertionError with a hint unless the answer is right.

Fences marked `output` are left out, as the cell prints this itself. So is a picture right after a fence: the
cell draws it, and this script saves it for the page.
"""

from __future__ import annotations

import base64
import os
import posixpath
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from outputs import Fence, fences_of

DOCS = Path(__file__).resolve().parent
COURSE, NOTEBOOKS = DOCS / "course", DOCS.parent / "examples" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9]*.md"))
PICTURE = re.compile(r"\A\s*!\[[^\]]*\]\((?:\.\./)*docs/course/(pictures/[^)]+)\)\n")
LINK = re.compile(r"\]\(((?:\.\./)*[\w/.-]+\.(?:md|png|py|ipynb|yaml))\b")
SECONDS = 300  # for one cell, on a slow machine
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(names: Sequence[str]) -> None:
    """Write all notebooks, or write and run some, and save their pictures."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for page in [COURSE / f"{name}.md" for name in names] or CHAPTERS:
        path_of(page).write_text(text_of(page), encoding="utf-8")
    for name in names:
        n_pictures = save_pictures(run(notebook_of(COURSE / f"{name}.md", solved=True)))
        print(f"{name}.ipynb: written and run, {n_pictures} pictures")


def path_of(page: Path) -> Path:
    """Where the notebook of a chapter is."""
    return NOTEBOOKS / f"{page.stem}.ipynb"


def text_of(page: Path) -> str:
    """The notebook of a chapter as the text of its file, without outputs."""
    notebook = notebook_of(page)
    for cell in notebook.cells:
        cell.metadata.pop("picture", None)
    return nbformat.writes(notebook) + "\n"


def notebook_of(page: Path, *, solved: bool = False) -> NotebookNode:
    """A chapter as a notebook; `solved` has each solution in place of its exercise.

    A cell that draws a picture of the page has the picture's path as `metadata.picture`.
    """
    text = page.read_text(encoding="utf-8")
    cells = list(cells_of(text.splitlines(keepends=True), fences_of(text), page.stem))
    if solved:
        solutions = (fence.text.strip() for fence in fences_of(text) if "solution" in fence.words)
        exercises = (cell for cell in cells if "exercise" in cell.metadata.get("tags", []))
        for cell, solution in zip(exercises, solutions, strict=True):
            cell.source = solution
    for n, cell in enumerate(cells):
        cell.id = f"cell-{n}"  # nbformat's own are random, so the file would change each time
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})


def cells_of(lines: Sequence[str], fences: Sequence[Fence], name: str) -> Iterator[NotebookNode]:
    """The cells of a page: its prose, and each Python fence that is not a solution."""
    prose, done, code = "", 0, new_code_cell()
    for fence in [*fences, None]:
        prose += for_notebook("".join(lines[done : fence.first if fence else None]), name)
        if found := PICTURE.match(prose):
            code.metadata["picture"], prose = found[1], prose[found.end() :]
        is_code = fence is not None and fence.words[:1] == ["python"] and "solution" not in fence.words
        if (is_code or fence is None) and prose.strip():
            yield new_markdown_cell(prose.strip())
        if fence is None:
            return
        done = fence.last
        if is_code:
            code, prose = code_cell(fence), ""
            yield code
        elif fence.words != ["output"]:
            prose += f"```{fence.words[0]}\n{fence.text}```\n"


def code_cell(fence: Fence) -> NotebookNode:
    """A fence as a cell; the tag of one that raises lets the notebook continue."""
    tags = [word for word in fence.words if word in ("exercise", "check")]
    tags += ["raises-exception"] if "raises" in fence.words else []
    return new_code_cell(fence.text.strip(), metadata={"tags": tags} if tags else {})


def for_notebook(prose: str, name: str) -> str:
    """The text with links that work from the notebook: chapters link to notebooks, and back to the page."""
    prose = prose.replace(
        f"[notebook](../../examples/course/{name}.ipynb)", f"[page](../../docs/course/{name}.md)"
    )
    return LINK.sub(relink, prose)


def relink(found: re.Match[str]) -> str:
    """A link of the page as a link of its notebook."""
    target = found[1]
    if re.fullmatch(r"\d_\w+\.md", target):
        return f"]({target.removesuffix('.md')}.ipynb"
    if target.startswith("../../docs/"):
        return found[0]
    return "](" + posixpath.relpath(posixpath.join("docs/course", target), "examples/course")


def run(notebook: NotebookNode, client_class: type[NotebookClient] = NotebookClient) -> NotebookNode:
    """Run a notebook in an empty folder, with this copy of the package and the style of the pages' pictures.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises that is not marked so.
    """
    paths = [str(DOCS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MATPLOTLIBRC": str(DOCS / "matplotlibrc"),
    }
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = client_class(notebook, timeout=SECONDS, kernel_name="python3", resources=resources)
        client.execute(env=environment)
    return notebook


def pictures_of(notebook: NotebookNode) -> Iterator[tuple[str, bytes | None]]:
    """Each picture that the page shows, and the one that its cell has drawn, if any."""
    for cell in notebook.cells:
        if "picture" in cell.metadata:
            drawn = [output.data.get("image/png") for output in cell.outputs if "data" in output]
            png = next((data for data in reversed(drawn) if data), None)
            yield cell.metadata.picture, None if png is None else base64.b64decode(png)


def save_pictures(notebook: NotebookNode) -> int:
    """Save the pictures of a notebook that has run; return their number."""
    found = list(pictures_of(notebook))
    for name, png in found:
        if png is None:
            raise SystemExit(f"notebooks: the page shows {name}, but the cell before it draws nothing.")
        (COURSE / name).parent.mkdir(exist_ok=True)
        (COURSE / name).write_bytes(png)
    return len(found)


if __name__ == "__main__":
    main(sys.argv[1:])
