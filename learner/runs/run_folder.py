"""The folder that keeps a run: its name, its checkpoints, and the results that are written to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size, rmtree
from textwrap import fill
from typing import Any

from callbacks import Checkpoint
from callbacks.history.drawing import why_undrawn
from learner.files.run_files import BEST, FINAL, read_facts, shown_path, weights_file
from learner.learner import Learner
from learner.recipes.recipe import Recipe
from learner.recipes.recipe_errors import Mistake, RecipeError
from learner.recipes.yaml_tree import read_recipe

MAX_NAME = 100  # characters of the recipe's name in the folder's name, so that paths stay short


def cannot_be_kept(runs: Path, error: OSError) -> Mistake:
    """The error for a folder of runs that cannot be written to."""
    hint = "Choose another folder with --runs, or pass --keep-nothing."
    return Mistake(f"runs cannot be kept in {runs}: {error.strerror}. {hint}")


@contextmanager
def first_files(folder: Path) -> Iterator[None]:
    """Write the first files of a new folder within the block; if that fails, the folder is removed."""
    try:
        yield
    except OSError as error:
        rmtree(folder, ignore_errors=True)
        raise cannot_be_kept(folder.parent, error) from error


def new_folder(runs: Path, recipe: Path) -> Path:
    """Create a folder, named after the recipe with the next free number."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_kept(runs, error) from error
    number = max(numbered(runs, recipe), default=0)
    while True:
        number += 1
        folder = runs / f"{recipe.stem[:MAX_NAME]}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run has just created it
            continue
        return folder


def runs_of(recipe: Path, runs: Path) -> list[Path]:
    """The folders of a recipe's runs, the newest first."""
    found = numbered(runs, recipe)
    folders = [found[number] for number in sorted(found, reverse=True)]
    return [each for each in folders if (each / "recipe.yaml").is_file()]


def numbered(runs: Path, recipe: Path) -> dict[int, Path]:
    """The files and folders that are named after a recipe, by number."""
    start = f"{recipe.stem[:MAX_NAME]}-"
    found = {each.name.removeprefix(start): each for each in runs.glob("*") if each.name.startswith(start)}
    return {int(ending): each for ending, each in found.items() if ending.isdecimal()}


def kept_recipe(folder: Path) -> str:
    """The recipe of a run, without the comment about versions at the top."""
    lines = (folder / "recipe.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def keep_results(learn: Learner, folder: Path, *, draw_losses: bool = True) -> None:
    """Write the history, and the figures that are not written yet."""
    if len(learn.history):
        learn.history.to_csv(folder / "history.csv")
    for callback in learn.callbacks:
        figure = getattr(callback, "figure", None)
        if figure is not None and getattr(callback, "path", None) is None:
            figure.savefig(folder / f"{callback.name}.png", dpi=150)
    has_losses = len(learn.history) > 1 and any(name.endswith("loss") for name in learn.history.names)
    if draw_losses and has_losses and not why_undrawn():
        figure: Any = learn.history.plot().figure
        figure.savefig(folder / "losses.png", dpi=100)


def closing_lines(folder: Path, facts: dict[str, Any]) -> str:
    """What a run's folder contains and how to open it, in lines that fit the terminal."""
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    weights = facts.get("weights") or {}
    reason = weights.get("reason")
    missing = f"; no final weights: {reason}" if reason else ""
    width = get_terminal_size((80, 24)).columns
    shown = shown_path(folder)
    lines = [f"kept {shown}: {', '.join(names)}{missing}"]
    if weights_file(folder, FINAL) or weights_file(folder, BEST):
        if weights.get("frozen"):
            files = " and ".join(weights[name] for name in ("final", "best") if weights.get(name))
            lines.append(f"with the frozen weights: {files} (trainable_only is for checkpoints)")
        lines.append(f"open it in Python: learner.open_run({shown!r})")
    return "\n".join(fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def check_saves(recipe: Recipe) -> None:
    """Refuse to resume a recipe that saves nothing."""
    if not any(part.target is Checkpoint for part in recipe.sections.callbacks.values()):
        raise Mistake(
            f"{recipe.path.name} saves nothing, so its runs cannot be resumed. Add to it:\n\n    callbacks:\n"
            "      Checkpoint: {folder: checkpoints, every: 1 epoch}\n"
        )


def check_optimizer(recipe: Recipe) -> None:
    """Refuse to resume with other settings of the optimizer, which would be those of the checkpoint."""
    node, known = recipe.tree.value["optimizer"], read_facts(recipe.path.parent)
    before = known.get("optimizer") or read_recipe(recipe.path).plain().get("optimizer")
    settings = node.value if isinstance(node.value, dict) else {}
    then = before if isinstance(before, dict) else {"use": before}
    if "use" in settings and settings["use"].plain() != then.get("use"):
        return  # another optimizer, which only `--differ optimizer` allows
    names = [name for name in {**then, **settings} if name != "use"]
    changed = [name for name in names if name not in settings or settings[name].plain() != then.get(name)]
    if changed:
        name = changed[0]
        place = settings[name].key_place if name in settings else node.key_place
        fix = f"Write {name}: {then[name]}, as in the run." if name in then else f"Omit {name}."
        raise RecipeError.at(
            place,
            f"{name}: a resumed run continues with the optimizer of its checkpoint, so this change would "
            "have no effect",
            f"{fix} To train the weights with other settings, see learner.open_run in Python.",
        )
