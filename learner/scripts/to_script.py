"""`learn.to_script`: write a learner as a script of plain PyTorch, which does not need this project."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any

from callbacks.core.given import as_callbacks
from callbacks.core.output import print_line
from callbacks.history.paths import as_path, replacing
from learner.data import datasets
from learner.engine.composition import as_list
from learner.messages.keywords import suggest_keywords
from learner.scripts.compose import script_of
from learner.scripts.expressions import Part
from learner.scripts.script import Script
from learner.scripts.source_text import WIDTH
from learner.scripts.user_files import files_importing_project
from learner.state.protocol import FullLearner

MARK = "Written by plainlearner"


@suggest_keywords
def to_script(
    learn: FullLearner,
    path: str | Path = "train.py",
    *,
    n_epochs: int,
    model: Any = None,
    data: Any = None,
    seed: int | None = None,
    callbacks: Any = (),
) -> Path:
    """Write the training of this learner as a script of plain PyTorch that imports nothing from this project.

    The script does the same as `learn.fit(n_epochs)` with these callbacks: it sets the seed, makes the data
    and the model, trains, and writes the final weights to `model.pt`. It ends with the same bits if the
    learner was made in the same order: first the seed, then the data, the model and the fit. It must stay
    next to the user's own files, which it imports. Nothing is trained, and the learner is not changed.

    Args:
        learn: the learner.
        path: the file to write; only a script that `to_script` has written is overwritten.
        n_epochs: how many epochs the script trains.
        model: the class or function that makes the model, such as `"models.py:Net"`, or with arguments, such
            as `{"use": "models.py:Net", "n_hidden": 50}`. The file is in or below the folder of the script.
        data: the same for the data: a function that returns what `Learner(data=...)` takes, or the tensors
            of a `Data.from_tensors`; or `"digits"` and the other data sets of `learner.datasets`.
        seed: the seed that the script sets; None to set no seed.
        callbacks: further callbacks, as for `fit`.

    Returns:
        The path.

    Raises:
        ValueError: parts have no script form, such as a callback of your own; the message lists all of them.
        FileExistsError: the file exists and was not written by `to_script`.

    Warns:
        LearnerWarning: the learner has not trained yet, and its weights are not those that the seed gives.
    """
    path = as_path("to_script", "path", path, "the name of a file, such as 'train.py'")
    folder = path.absolute().parent
    if type(n_epochs) is not int or n_epochs < 0:
        raise ValueError(f"to_script(n_epochs={n_epochs!r}): pass the number of epochs, 0 or more.")
    parts, problems = {}, []
    for key, given in (("model", model), ("data", data)):
        try:
            parts[key] = given_part(key, given, folder)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    with learn.added(*as_callbacks(as_list(callbacks, "callbacks"), "callbacks")):
        script = script_of(learn, n_epochs, **parts, seed=seed, folder=folder)
    write_script(script, path)
    if reason := still_needed(script, folder):
        print_line(reason)
    return path


def write_script(script: Script, path: Path) -> None:
    """Write the text of a script to a file."""
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(
            f"{path} exists, and was not written by to_script: pass another name, or delete it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(script.text(head_of(script)), encoding="utf-8")


def still_needed(script: Script, folder: Path) -> str:
    """Which of the user's files import this project, so that the script needs it; empty if none does."""
    own = {module for module, _ in script.expressions.imports if module.startswith("./")}
    names = [
        each.relative_to(folder).as_posix()
        for each in files_importing_project((each.removeprefix("./") for each in own), folder)
    ]
    if not names:
        return ""
    which = "this file imports" if len(names) == 1 else "these files import"
    return f"the script needs plainlearner as long as {which} it: {', '.join(names)}"


def head_of(script: Script) -> str:
    """The docstring of a script."""
    title = " ".join((script.title or "Train a model").split())
    title = title.replace("\\", "/").replace('"""', "'''")
    lines = [f"{title[:1].upper()}{title[1:].rstrip('.')}.", "", f"{MARK}, in plain PyTorch."]
    if script.left_out:
        lines += ["", f"Left out, because it does not change the training: {', '.join(script.left_out)}."]
    return "\n".join(line for each in lines for line in (wrap(each, WIDTH - 4) or [""]))


FORMS = {
    "model": 'a class or function next to the script that makes the model: model="models.py:Net", or with '
    'arguments, model={"use": "models.py:Net", "n_hidden": 50}',
    "data": 'a function next to the script that returns the loaders: data="data.py:loaders", or one of '
    f"{', '.join(datasets.__all__)}",
}


@dataclass(kw_only=True)
class Named(Part):
    """What a script calls for the model or the data, of a file in its folder."""

    folder: Path

    def build(self) -> Any:
        with importable(self.folder):
            return super().build()


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
    return Named(name, target, arguments, folder=folder)


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
