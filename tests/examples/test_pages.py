"""Every example is a page, describes what it shows, and is in the list of examples."""

import ast
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
IMPORTED = {"models.py", "digits_models.py", "shapes.py"}


def test_the_list_names_every_example_and_nothing_else():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yaml", ".ipynb", ".txt")}
    listed = set(re.findall(r"`([\w.]+\.(?:py|yaml|ipynb|txt))`", (EXAMPLES / "README.md").read_text()))
    assert listed == files


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_a_page_with_a_docstring(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring is not None
    assert len(text.splitlines()) <= 120
    if path.name not in IMPORTED:
        assert re.search(r"^Prints ", docstring, re.MULTILINE)
        assert text.endswith('if __name__ == "__main__":\n    main()\n')


def test_the_plain_loop_needs_no_learner():
    tree = ast.parse((EXAMPLES / "01_plain_loop.py").read_text(encoding="utf-8"))
    modules = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"math", "torch"}
