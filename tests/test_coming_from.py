"""The scripts in other frameworks train what ours train, for those frameworks that are installed."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGES = Path(__file__).parent.parent / "docs" / "coming_from"
PAGE_OF = {"accelerate": "hugging_face.md", "ignite": "ignite.md", "lightning": "lightning.md"}
INSTALLED = [
    name for name in PAGE_OF if importlib.util.find_spec(name)
]  # the development extra brings accelerate


def scripts_of(framework: str) -> tuple[str, str]:
    """The script of a framework that a page shows, and ours after it."""
    text = (PAGES / PAGE_OF[framework]).read_text(encoding="utf-8")
    fences = re.findall(r"^```(python[^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for (words, theirs), (_, ours) in itertools.pairwise(fences):
        if words == "python notest" and re.search(rf"^(from|import) {framework}\b", theirs, re.MULTILINE):
            return theirs, ours
    raise AssertionError(f"{PAGE_OF[framework]} has no script of {framework}")


def run(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a script after it ran in a folder of its own."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "script"}
    exec(script, names)
    return names


@pytest.mark.filterwarnings("ignore")  # what other frameworks warn of is theirs
@pytest.mark.parametrize("framework", INSTALLED)
def test_the_script_in_another_framework_ends_with_the_same_bits(framework, tmp_path, monkeypatch):
    theirs, ours = scripts_of(framework)
    model = run(theirs, tmp_path / "theirs", monkeypatch)["model"]
    learn = run(ours, tmp_path / "ours", monkeypatch)["learn"]
    pairs = zip(model.parameters(), learn.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
