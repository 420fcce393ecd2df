"""Recipes for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from upper.recipe_files import MODELS, RECIPE


@pytest.fixture
def write(tmp_path: Path):
    """Write a recipe next to its Python files, with some of its text changed."""

    def write(*changes: tuple[str, str], text: str = RECIPE) -> Path:
        (tmp_path / "helper.py").write_text("WIDTH = 5\n")
        (tmp_path / "models.py").write_text(MODELS)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write
