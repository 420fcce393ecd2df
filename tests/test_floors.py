"""The two floors: `callbacks` never imports `learner`; importing is quick and draws nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import callbacks
import learner

GROUND = Path(callbacks.__file__).parent
ROOT = GROUND.parent

#: Files at former paths, which import the names from the present ones.
FORMER_PATHS = {
    "callbacks/annealers.py",
    "callbacks/contract.py",
    "learner/datasets.py",
    "learner/groups.py",
    "learner/replay.py",
}


@pytest.mark.parametrize("path", sorted(GROUND.rglob("*.py")), ids=lambda path: path.name)
def test_the_ground_floor_imports_nothing_of_the_upper_floor(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.split(".")[0] == "learner"] == []


def test_a_file_name_has_one_meaning():
    folders = ("callbacks", "docs", "learner", "tests")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    kept = [
        path
        for path in found
        if path.relative_to(ROOT).as_posix() not in FORMER_PATHS
        and "_build" not in path.parts  # the built docs
    ]
    names = Counter(path.name for path in kept if path.name not in ("__init__.py", "conftest.py"))
    twice = {name for name, n in names.items() if n > 1}
    assert [str(path) for path in kept if path.name in twice and not is_planted(path)] == []


@pytest.mark.parametrize("package", [callbacks, learner])
def test_files_and_folders_stay_small(package):
    files = [*Path(package.__file__).parent.rglob("*.py")]
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    folders = Counter(path.parent.name for path in files)
    assert {name: n for name, n in lines.items() if n > 300} == {}
    assert {name: n for name, n in folders.items() if n > 16} == {}


def is_planted(path: Path) -> bool:
    """Is it the file of a user, which a recipe beside it names?"""
    return path.name == "models.py" and any(path.parent.glob("*.yaml"))


IMPORTS = """
import json, sys, torch
state = torch.get_rng_state()
import callbacks
upper = [name for name in sys.modules if name.split(".")[0] == "learner"]
import learner
slow = {"matplotlib", "yaml", "sklearn", "tqdm.auto"} & set(sys.modules)
print(json.dumps({"upper": upper, "slow": list(slow), "is_same": torch.equal(state, torch.get_rng_state())}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What importing both floors does in a new process where warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=GROUND.parent, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_ground_floor_alone_loads_nothing_of_the_upper_floor(imported):
    assert imported["upper"] == []


def test_importing_loads_neither_matplotlib_nor_the_command_line(imported):
    assert imported["slow"] == []


def test_importing_leaves_the_random_state_alone(imported):
    assert imported["is_same"]


@pytest.mark.parametrize("package", [callbacks, learner])
def test_every_public_name_exists_and_is_listed(package):
    for name in package.__all__:
        thing = getattr(package, name)
        assert isinstance(thing, (tuple, str)) or getattr(thing, "__doc__", None) or name == "Direction", name


@pytest.mark.parametrize("package", [callbacks, learner])
def test_the_types_are_shipped(package):
    assert (Path(package.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("package", [callbacks, learner])
def test_nothing_called_learn_hides_its_type(package):
    hidden = []
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.arg, ast.AnnAssign)) or node.annotation is None:
                continue
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            types = {each.id for each in ast.walk(node.annotation) if isinstance(each, ast.Name)}
            if name in ("learn", "learner") and types & {"Any", "object"}:
                hidden.append(f"{path.name}:{node.lineno}")
    assert hidden == []
