"""Let the Python files of a recipe, and no other code, import files in the recipe's folder.

If the folder were on `sys.path`, a library that tries `import triton` would run a `triton.py` in it.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

OURS = {"__main__", "callbacks", "learner"}
IMPORTERS = (importlib.__file__, __file__, "<frozen ")  # code that runs imports for its callers


class Beside(MetaPathFinder):
    """Finds modules in a folder, for the files that were added and for the files that these import.

    Attributes:
        folder: the folder.
        modules: those of the folder whose names modules of another recipe's folder have in `sys.modules`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.modules: dict[str, ModuleType] = {}
        self._own: set[str] = set()  # files, and package folders, that may import from here
        #: for the files of the folder: an `import` in a function, which runs at any time, finds them too
        self.builtins = vars(builtins) | {"__import__": self._import}

    def add(self, file: Path) -> None:
        """Let a file import from the folder."""
        self._own.add(str(file))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Find a module of the folder, if a permitted file imports it; Python itself finds submodules."""
        if path is not None or not self._is_own(importer()):
            return None
        spec = PathFinder.find_spec(fullname, [str(self.folder)], target)
        places = [] if spec is None else spec.submodule_search_locations or [spec.origin]
        for place in places:
            self._own.add(str(place))
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = LoaderBeside(spec.loader.name, spec.loader.path)
            spec.loader.builtins = self.builtins
        return spec

    def _import(self, name: str, *arguments: Any, **keywords: Any) -> ModuleType:
        """`__import__` for the files of the folder."""
        level = arguments[3] if len(arguments) > 3 else keywords.get("level", 0)
        top = self.folder / name.partition(".")[0]
        is_beside = not level and (top.is_dir() or top.with_suffix(".py").exists())
        with self.open() if is_beside else nullcontext():
            return builtins.__import__(name, *arguments, **keywords)

    def _is_own(self, file: str) -> bool:
        path = Path(file)
        return any(str(each) in self._own for each in (path, *path.parents))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Find modules within the block; installed packages take precedence over the folder."""
        if not self._own or self in sys.meta_path or str(self.folder) in sys.path:
            yield
            return
        for_workers = ForWorkers(self.folder)
        names = self._taken_names()
        sys.meta_path.append(self)
        sys.path.append(for_workers)
        others = exchange(names, self.modules)
        try:
            yield
        finally:
            self.modules = exchange(names, others)
            sys.meta_path.remove(self)
            sys.path[:] = [each for each in sys.path if each is not for_workers]

    def _taken_names(self) -> set[str]:
        """The names of modules in the folder that modules of another recipe's folder have."""
        with os.scandir(self.folder) as entries:
            there = {each.name.removesuffix(".py") for each in entries}
        taken = there & sys.modules.keys() - OURS
        places = {name: place_of(sys.modules[name]) for name in taken}
        foreign = {
            name
            for name, place in places.items()
            if place and not Path(place).resolve().is_relative_to(self.folder)
        }
        return {name for name in foreign if PathFinder.find_spec(name) is None}  # others are installed


class LoaderBeside(SourceFileLoader):
    """Runs a module of the folder with its `builtins`."""

    builtins: dict[str, Any]

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        module.__dict__["__builtins__"] = self.builtins
        super().exec_module(module)


def place_of(module: ModuleType) -> str | None:
    """The file of a module, or the folder of a package without a file."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)


def exchange(names: set[str], modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
    """Replace the modules of these names, and their submodules, in `sys.modules`; returns the former ones."""
    former = {name: each for name, each in sys.modules.items() if name.partition(".")[0] in names}
    for name in former:
        del sys.modules[name]
    sys.modules.update({name: each for name, each in modules.items() if name.partition(".")[0] in names})
    return former


class ForWorkers(str):
    """A path that does not exist, but unpickles as the folder, so that spawned workers import from it."""

    __slots__ = ("folder",)

    def __new__(cls, folder: Path) -> ForWorkers:
        found = super().__new__(cls, folder / "<for worker processes>")
        found.folder = str(folder)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.folder,)


def importer() -> str:
    """The file whose code runs the import."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(IMPORTERS):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_filename
