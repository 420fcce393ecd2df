"""A run of a recipe, and the folder that keeps it: resolved recipe, Python files, history, figures."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from learner.learner import Learner
from learner.recipes.faults import Mistake
from learner.recipes.recipe import Recipe, is_refusal

MAX_NAME = 100  # letters of a recipe's name in its folder's, so that no path grows too long


def run(recipe: Recipe, runs: Path | None = Path("runs")) -> Learner:
    """Build the recipe's Learner, fit it, and keep the run in a folder of its own, whatever ends it.

    Args:
        recipe: what to run.
        runs: where the folder `<recipe's name>-<number>` is made, or None to keep nothing.

    Raises:
        Mistake: the folder cannot be made.
        RecipeError: a part cannot be built, or the parts do not work together; nothing was trained.
        Exception: what went wrong in training.
    """
    learn = recipe.build()
    folder = None if runs is None else new_folder(runs.absolute(), recipe.path.stem[:MAX_NAME])
    if folder is not None:
        keep_recipe(recipe, folder)
        send_files_to(folder, learn)
    try:
        with recipe.importable():
            learn.fit(recipe.n_epochs)
    except Exception as error:
        if not is_refusal(error, learn):
            raise
        if folder is not None:
            shutil.rmtree(folder)  # made above; nothing was trained
            folder = None
        raise recipe.error_at(error) from error
    finally:
        if folder is not None:
            keep_results(learn, folder)
            print(f"kept {shown_path(folder)}: {', '.join(sorted(each.name for each in folder.iterdir()))}")
    return learn


def new_folder(runs: Path, name: str) -> Path:
    """A folder that was not there before: the recipe's name and the next free number."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another folder with --runs, or pass --keep-nothing."
        raise Mistake(f"runs cannot be kept in {runs}: {error.strerror}. {hint}") from error
    endings = (
        each.name.removeprefix(f"{name}-") for each in runs.glob("*") if each.name.startswith(f"{name}-")
    )
    number = max((int(ending) for ending in endings if ending.isdecimal()), default=0)
    while True:
        number += 1
        folder = runs / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run has just taken it
            continue
        return folder


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the resolved recipe, and the Python files that it names, so that the folder runs by itself."""
    head = (
        f"# The resolved recipe of this run of {recipe.path.name}, with plainlearner {own_version()},\n"
        f"# torch {torch.__version__}, Python {platform.python_version()} on {platform.system()}.\n"
    )
    (folder / "recipe.yaml").write_text(head + recipe.resolved(), encoding="utf-8")
    for source in recipe.names.code.sources():
        target = folder / source.relative_to(recipe.names.code.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def send_files_to(folder: Path, learn: Learner) -> None:
    """Let plug-ins that write to a relative `path` write into the run's folder."""
    for plugin in learn.callbacks:
        path = getattr(plugin, "path", None)
        if isinstance(path, (str, Path)):
            plugin.path = type(path)(folder / path)  # type: ignore[attr-defined]


def keep_results(learn: Learner, folder: Path) -> None:
    """Write the history, and the figures that are not written yet."""
    if len(learn.history):
        learn.history.to_csv(folder / "history.csv")
    for plugin in learn.callbacks:
        figure = getattr(plugin, "figure", None)
        if figure is not None and getattr(plugin, "path", None) is None:
            figure.savefig(folder / f"{plugin.name}.png", dpi=150)
    if len(learn.history) > 1 and any(name.endswith("loss") for name in learn.history.names):
        figure: Any = learn.history.plot().figure
        figure.savefig(folder / "losses.png", dpi=100)


def shown_path(path: Path) -> str:
    """The path from here, where it is below; else whole."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def own_version() -> str:
    """The version that is installed."""
    try:
        return version("plainlearner")
    except PackageNotFoundError:  # run from its sources
        return "(not installed)"
