"""The examples of a page run in a folder of their own.

Ctrl-C works as in a terminal, also where a shell makes background jobs and their child processes ignore it.
"""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outputs import files_of  # docs/outputs.py
from pytest_markdown_docs._runners import DefaultRunner, register_runner  # no public name
from pytest_markdown_docs.definitions import FenceTestDefinition

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A temporary folder for each page."""
    return defaultdict(lambda: tmp_path_factory.mktemp("page"))


@pytest.fixture(autouse=True)
def own_folder(request, monkeypatch):
    """Go to the page's folder; close what pyplot has opened, as it warns about many open figures."""
    if request.path.suffix == ".md":
        monkeypatch.chdir(request.getfixturevalue("folders")[request.path])
        with files_of(request.path):
            yield
    else:
        yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@register_runner(default=True)
class ContinuingRunner(DefaultRunner):
    """Runs a `continuation` with the names of the example before it.

    The pytest plugin itself runs all earlier examples again, which is n * n / 2 runs for n examples.
    """

    def __init__(self) -> None:
        self.done = ""  # what has run in `names`
        self.names: dict[str, Any] = {}
        self.page = Path()

    def runtest(self, test: FenceTestDefinition, args: dict[str, Any], *, asyncio_runner: Any = None) -> None:
        """Run what has not run yet; after a failure the next example starts again."""
        done, self.done = self.done, ""
        if done and test.source_path == self.page and test.source.startswith(done):
            rest = "\n" * done.count("\n") + test.source[len(done) :]  # on the lines that it has in the page
        else:
            self.names, self.page, rest = args, test.source_path, test.source
        super().runtest(replace(test, source=rest), self.names, asyncio_runner=asyncio_runner)
        self.done = test.source
