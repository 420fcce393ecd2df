"""A run of a recipe, and the folder that keeps it: resolved recipe, Python files, history, figures."""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from callbacks import BlackBox, Checkpoint
from callbacks.core.output import print_line
from callbacks.core.warning import warn
from callbacks.save.checkpoint_folder import checkpoints_in
from learner.checks.processes import check_processes
from learner.learner import Learner
from learner.recipes.recipe import Recipe, is_refusal
from learner.recipes.recipe_errors import Mistake, RecipeError
from learner.resume.resumption import Resume
from learner.state.fingerprint import own_version

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
    check_alone(learn)
    folder = None if runs is None else new_folder(runs.absolute(), recipe.path.stem[:MAX_NAME])
    if folder is not None:
        keep_recipe(recipe, folder)
    try:
        return train(recipe, learn, folder)
    except RecipeError:
        if folder is not None:
            shutil.rmtree(folder)  # made above; nothing was trained
        raise


def run_or_go_on(recipe: Recipe, runs: Path, differ: Iterable[str] = ()) -> Learner:
    """Go on with the newest run of a recipe that has checkpoints, or begin one.

    Raises:
        Mistake: the recipe saves nothing, or the run is of another recipe.
    """
    check_saves(recipe)
    folder = next((each for each in runs_of(recipe, runs) if saved_in(each)), None)
    if folder is None:
        print_line(f"no run of {recipe.path.name} with a checkpoint in {shown_path(runs)}: a new one begins")
        return run(recipe, runs)
    if body_of(folder / "recipe.yaml") != recipe.resolved():
        raise Mistake(
            f"{shown_path(folder)} is a run of another recipe than {recipe.path.name} is now. To go on with "
            f"it as it was begun: learner resume {shown_path(folder)}. To begin anew, leave out --resume."
        )
    return train(recipe, recipe.build(), folder, resume="must", allow=differ)


def go_on(recipe: Recipe, differ: Iterable[str] = ()) -> Learner:
    """Go on with a run, whose recipe lies in its folder.

    Raises:
        Mistake: the run has no checkpoint.
    """
    folder = recipe.path.parent
    check_saves(recipe)
    if not saved_in(folder):
        raise Mistake(f"{shown_path(folder)} has no checkpoint to go on from: begin anew with `learner run`.")
    learn = train(recipe, recipe.build(), folder, resume="must", allow=differ)
    if recipe.overrides:
        write_recipe(recipe, folder)
    return learn


def train(
    recipe: Recipe,
    learn: Learner,
    folder: Path | None,
    *,
    resume: Resume = "never",
    allow: Iterable[str] = (),
) -> Learner:
    """Fit, and keep what there is to keep, whatever ends it."""
    check_alone(learn)
    boxes = [] if folder is None or has_box(recipe, learn) else [BlackBox(folder / "blackbox")]
    if folder is not None:
        send_files_to(folder, learn)
    ended = False
    try:
        with recipe.importable():
            learn.fit(recipe.n_epochs, boxes, resume=resume, allow=allow)
        ended = True
    except Exception as error:
        if not is_refusal(error, learn):
            raise
        folder = None
        raise recipe.error_at(error) from error
    finally:
        if folder is not None:
            keep_and_report(learn, folder, ended=ended)
    return learn


def keep_and_report(learn: Learner, folder: Path, *, ended: bool) -> None:
    """Keep the results, and print what the folder holds; what ends a fit that has not ended well stays."""
    try:
        keep_results(learn, folder)
    except OSError as error:
        if ended:
            raise
        warn(
            f"{folder}: the history and the figures were not kept: {error}. The checkpoints are as they were."
        )
    names = ", ".join(sorted(each.name for each in folder.iterdir()))
    hint = "" if saved_in(folder) else "; no weights: add Checkpoint to the recipe's callbacks"
    print_line(f"kept {shown_path(folder)}: {names}{hint}")
    if not ended and saved_in(folder):
        print_line(f"to resume: learner resume {shlex.quote(str(shown_path(folder)))}")


def check_alone(learn: Learner) -> None:
    """Refuse a run that is one of several processes, before it has a folder.

    Raises:
        Mistake: says how many there are.
    """
    try:
        check_processes(learn, [])
    except RuntimeError as error:
        raise Mistake(str(error)) from error


def has_box(recipe: Recipe, learn: Learner) -> bool:
    """Does the recipe say itself whether a step with an error is kept?"""
    return BlackBox in learn.callbacks or "BlackBox" in recipe.sections.callback_nodes


def check_saves(recipe: Recipe) -> None:
    """Refuse to go on with a recipe that saves nothing.

    Raises:
        Mistake: tells what to add.
    """
    if not any(part.target is Checkpoint for part in recipe.sections.callbacks.values()):
        raise Mistake(
            f"{recipe.path.name} saves nothing to go on from. Add to it:\n\n    callbacks:\n"
            "      Checkpoint: {folder: checkpoints, every: 1 epoch}\n"
        )


def runs_of(recipe: Recipe, runs: Path) -> list[Path]:
    """The folders of a recipe's runs, the newest first."""
    name = recipe.path.stem[:MAX_NAME]
    found = [each for each in runs.glob("*") if (each / "recipe.yaml").is_file()]
    numbers = {each: each.name.removeprefix(f"{name}-") for each in found if each.name.startswith(f"{name}-")}
    return sorted(
        (each for each in numbers if numbers[each].isdecimal()), key=lambda each: -int(numbers[each])
    )


def saved_in(folder: Path) -> bool:
    """Is there a checkpoint in or below it?"""
    return any(checkpoints_in(each.parent) for each in folder.rglob("step-*.pt"))


def body_of(path: Path) -> str:
    """A kept recipe without the lines about versions at its head."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


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
    write_recipe(recipe, folder)
    for source in recipe.names.code.sources():
        target = folder / source.relative_to(recipe.names.code.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the resolved recipe, with the versions at its head."""
    head = (
        f"# The resolved recipe of this run of {recipe.path.name}, with plainlearner {own_version()},\n"
        f"# torch {torch.__version__}, Python {platform.python_version()} on {platform.system()}.\n"
    )
    (folder / "recipe.yaml").write_text(head + recipe.resolved(), encoding="utf-8")


def send_files_to(folder: Path, learn: Learner) -> None:
    """Let plug-ins that write to a relative `path` or `folder` write into the run's folder."""
    for plugin in learn.callbacks:
        for name in ("path", "folder"):
            path = getattr(plugin, name, None)
            if isinstance(path, (str, Path)):
                setattr(plugin, name, type(path)(folder / path))


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
