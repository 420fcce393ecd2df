"""What makes the model and the data of a learner that was made in Python, as `"models.py:Net"`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from learner.data import datasets

FORMS = {
    "model": 'a class or function beside the script that makes the model, as model="models.py:Net", or with '
    'arguments, model={"use": "models.py:Net", "n_hidden": 50}',
    "data": 'a function beside the script that returns the loaders, as data="data.py:loaders", or one of '
    f"{', '.join(datasets.__all__)}",
}


@dataclass
class Named:
    """What a script calls for the model or the data."""

    name: str
    target: Any
    folder: Path
    arguments: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    starred: str | None = None

    def build(self) -> Any:
        """Make it."""
        with importable(self.folder):
            return self.target(**self.arguments)


def given_part(key: str, given: Any, folder: Path) -> Named:
    """What was passed as `model` or `data`."""
    if given is None:
        raise ValueError(f"to_script({key}=...) is missing. Pass {FORMS[key]}.")
    arguments = dict(given) if isinstance(given, Mapping) else {"use": given}
    name = arguments.pop("use", None)
    if not isinstance(name, str):
        raise ValueError(f"to_script({key}={given!r}): pass {FORMS[key]}.")
    if key == "data" and name in datasets.__all__:
        target = getattr(datasets, name)
    else:
        target = in_file(key, name, folder)
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"to_script({key}={given!r}): {name}: {error}. Pass {FORMS[key]}.") from None
    return Named(name, target, folder, arguments)


def in_file(key: str, name: str, folder: Path) -> Any:
    """A class or function in a file of the user, which is run if it was not imported yet."""
    file, _, attribute = name.rpartition(":")
    path = folder / file
    if not file.endswith(".py") or not path.is_file():
        where = f"there is no file {path}" if file.endswith(".py") else "it names no Python file"
        raise ValueError(f"to_script({key}={name!r}): {where}. Pass {FORMS[key]}.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"to_script({key}={name!r}): the file must be in or below {folder}.")
    module = module_of(path.resolve())
    if not callable(getattr(module, attribute, None)):
        raise ValueError(f"to_script({key}={name!r}): {file} has no function or class {attribute!r}.")
    return getattr(module, attribute)


def module_of(path: Path) -> ModuleType:
    """The module of a file: the one that was imported, or a new one."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and module.__name__ != "__main__" and is_file(file, path):
            return module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # classes in it look up their module
    with importable(path.parent):
        spec.loader.exec_module(module)
    return module


def is_file(file: str, path: Path) -> bool:
    """Is it this resolved path? Only links and files of its name are resolved, which takes long."""
    return (file.endswith(path.name) or os.path.islink(file)) and Path(file).resolve() == path  # noqa: PTH114


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Files of a folder can be imported within the block."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
