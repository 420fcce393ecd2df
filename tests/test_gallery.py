"""The pages of the gallery show what is counted, and recipes as they are in `examples/`."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest
from ports import harness

ROOT = Path(__file__).parent.parent
PAGES = {page: (harness.GALLERY / page).read_text(encoding="utf-8") for page in ("index.md", "recipes.md")}
RECIPES = sorted(path.stem for path in (ROOT / "examples").glob("*.yaml"))

spec = importlib.util.spec_from_file_location("gallery_count", harness.GALLERY / "count.py")
assert spec is not None
assert spec.loader is not None
count = importlib.util.module_from_spec(spec)
spec.loader.exec_module(count)

of_recipe = functools.cache(count.of_recipe)
CARDS = [(page, *found.groups()) for page, text in PAGES.items() for found in count.MARK.finditer(text)]


@pytest.mark.parametrize(("page", "kind", "name", "shown"), CARDS)
def test_a_card_shows_what_is_counted(page, kind, name, shown):
    counted = count.of_port(name) if kind == "port" else of_recipe(name)
    assert re.sub(r" · \d+\.\d\d s$", "", shown) == counted, (
        f"run docs/gallery/count.py: {page} is out of date"
    )


def test_every_port_and_every_recipe_has_a_card():
    on_the_index = [(kind, name) for page, kind, name, _ in CARDS if page == "index.md"]
    assert sorted(name for kind, name in on_the_index if kind == "port") == harness.NAMES
    assert sorted(name for kind, name in on_the_index if kind == "recipe") == RECIPES


def test_every_example_has_a_card():
    files = [path.name for path in (ROOT / "examples").glob("*.py")]
    helpers = {"models.py", "digits_models.py"}  # of other examples
    assert {name for name in files if f"examples/{name}>" not in PAGES["index.md"]} == helpers


def test_the_recipes_to_copy_are_those_of_the_examples():
    shown = re.findall(r"```yaml\n(.*?)```", PAGES["recipes.md"], re.DOTALL)
    files = [(ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8") for name in RECIPES]
    assert sorted(shown) == sorted(files)


def test_the_count_of_a_loop_is_its_lines_of_code():
    body = 'def f():\n    """A text."""\n    a = 1\n'
    source = body + "    for b in c:\n\n        # why\n        d(\n            b)\n"
    assert count.n_lines(source, count.loops_in(ast.parse(source))) == 3
