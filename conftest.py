"""Every example of the pages, this folder's README among them, runs in a folder of its own."""

import pytest


@pytest.fixture(autouse=True)
def own_folder(request, monkeypatch):
    """Go to a temporary folder."""
    if request.path.suffix == ".md":
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))
