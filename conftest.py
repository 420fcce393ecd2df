"""Every example of the pages, this folder's README among them, runs in a folder of its own.

Ctrl-C is as in a terminal: a shell lets jobs in the background ignore it, and their child processes too.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_markdown_docs._runners import DefaultRunner, register_runner  # no public name
from pytest_markdown_docs.definitions import FenceTestDefinition

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folder(request, monkeypatch):
    """Go to a temporary folder."""
    if request.path.suffix == ".md":
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@register_runner(default=True)
class GoingOn(DefaultRunner):
    """Lets a `continuation` go on where the example before it ended, in its names and in its folder.

    The plugin itself runs all examples before it once more: of n examples that is n * n / 2 runs.
    """

    def __init__(self) -> None:
        self.done = ""  # what has run in `names`
        self.names: dict[str, Any] = {}
        self.folder = self.page = Path()

    def runtest(self, test: FenceTestDefinition, args: dict[str, Any], *, asyncio_runner: Any = None) -> None:
        """Run what has not run yet; after a failure the next example begins anew."""
        here, done, self.done = Path.cwd(), self.done, ""
        if done and test.source_path == self.page and test.source.startswith(done):
            os.chdir(self.folder)
            rest = "\n" * done.count("\n") + test.source[len(done) :]  # on the lines that it has in the page
        else:
            self.names, self.folder, self.page, rest = args, here, test.source_path, test.source
        try:
            super().runtest(replace(test, source=rest), self.names, asyncio_runner=asyncio_runner)
        except BaseException:
            os.chdir(here)  # after a TypeError the plugin calls once more
            raise
        self.done = test.source
