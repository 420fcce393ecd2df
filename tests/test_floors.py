"""The two floors: `callbacks` never imports `learner`; importing is quick and draws nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import callbacks
import learner

GROUND = Path(callbacks.__file__).parent


@pytest.mark.parametrize("path", sorted(GROUND.rglob("*.py")), ids=lambda path: path.name)
def test_the_ground_floor_imports_nothing_of_the_upper_floor(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.split(".")[0] == "learner"] == []


def test_importing_the_ground_floor_alone_loads_nothing_of_the_upper_floor():
    code = "import callbacks, sys; print([name for name in sys.modules if name.split('.')[0] == 'learner'])"
    assert run(code) == "[]"


def test_importing_loads_neither_matplotlib_nor_the_command_line():
    code = "import learner, sys; print({'matplotlib', 'yaml', 'sklearn', 'tqdm.auto'} & set(sys.modules))"
    assert run(code) == "set()"


def test_importing_leaves_the_random_state_alone():
    code = "import torch; r = torch.get_rng_state; s = r(); import learner; print(torch.equal(s, r()))"
    assert run(code) == "True"


@pytest.mark.parametrize("package", [callbacks, learner])
def test_every_public_name_exists_and_is_listed(package):
    for name in package.__all__:
        thing = getattr(package, name)
        assert isinstance(thing, (tuple, str)) or getattr(thing, "__doc__", None) or name == "Direction", name


@pytest.mark.parametrize("package", [callbacks, learner])
def test_the_types_are_shipped(package):
    assert (Path(package.__file__).parent / "py.typed").exists()


def run(code: str) -> str:
    root = str(GROUND.parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()
