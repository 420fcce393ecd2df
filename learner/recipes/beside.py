"""Let only the Python files of a recipe import files beside them.

With the recipe's folder on `sys.path`, a library that tries `import triton` would run a file of that name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

IMPORTERS = (importlib.__file__, "<frozen ")  # code that imports for others


class Beside(MetaPathFinder):
    """Finds modules in a folder for named files in it and for the files that they import.

    Args:
        folder: without symbolic links.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._own: set[str] = set()  # files, and the folders of packages, whose imports may be found here

    def add(self, file: Path) -> None:
        """Let a file import its neighbours."""
        self._own.add(str(file))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """A module of the folder, if a permitted file imports it; modules in packages are found by others."""
        if path is not None or not self._is_own(importer()):
            return None
        spec = PathFinder.find_spec(fullname, [str(self.folder)], target)
        places = [] if spec is None else spec.submodule_search_locations or [spec.origin]
        for place in places:
            self._own.add(str(place))
        return spec

    def _is_own(self, file: str) -> bool:
        path = Path(file)
        return any(str(each) in self._own for each in (path, *path.parents))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take part in imports within the block; installed packages go before the folder."""
        if not self._own or self in sys.meta_path or str(self.folder) in sys.path:
            yield
            return
        for_workers = ForWorkers(self.folder)
        sys.meta_path.append(self)
        sys.path.append(for_workers)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            sys.path[:] = [each for each in sys.path if each is not for_workers]


class ForWorkers(str):
    """No folder here; in a worker process that is spawned the recipe's, as it imports what it unpickles."""

    __slots__ = ("folder",)

    def __new__(cls, folder: Path) -> ForWorkers:
        found = super().__new__(cls, folder / "<for worker processes>")
        found.folder = str(folder)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.folder,)


def importer() -> str:
    """The file whose code imports."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(IMPORTERS):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_filename
