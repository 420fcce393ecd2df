"""Every example of the pages runs in a folder of its own."""

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Go to a temporary folder."""
    monkeypatch.chdir(tmp_path)
