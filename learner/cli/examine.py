"""The commands that examine a recipe without training it: `check`, `lr-find` and `show`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from callbacks import Callback
from callbacks.core.registry import describe
from callbacks.history.drawing import why_undrawn
from learner.cli.parser import Commands, Parser, add_recipe_command, check_output, load
from learner.recipes.recipe_errors import Mistake, RecipeError, mistaken
from learner.runs.sweep_plan import sets_lr
from learner.tools.lr_find import NAMES, NO_FALL, SUGGESTIONS, LRSearch


def add_commands(commands: Commands[Parser]) -> None:
    """Add the commands to the command line."""
    check = add_recipe_command(commands, "check", "build the learner and check it on one batch")
    check.set_defaults(function=do_check)
    find = add_recipe_command(commands, "lr-find", "suggest a learning rate")
    find.add_argument(
        "--steps", type=int, default=100, metavar="N", help="number of rates to try (default: 100)"
    )
    find.add_argument("--plot", type=Path, metavar="FILE", help="plot losses and suggestions to this file")
    find.set_defaults(function=do_lr_find)
    show = add_recipe_command(commands, "show", "print the resolved recipe, and the loop with its callbacks")
    show.set_defaults(function=do_show)


def do_check(options: argparse.Namespace) -> int:
    """Build, and examine on one batch."""
    recipe = load(options)
    learn = recipe.build()
    with recipe.importable():
        report = learn.check()
    if not report.ok:
        errors = [recipe.error_at(ValueError(message)) for message in report.errors]
        raise RecipeError(problem for error in errors for problem in error.problems)
    print(f"{options.recipe}: the recipe has no problems.")
    return 0


def do_lr_find(options: argparse.Namespace) -> int:
    """Train with growing learning rates, and print the suggestions."""
    check_plot(options.plot)
    recipe = load(options)
    learn = recipe.build()
    with mistaken(ValueError, RuntimeError), recipe.importable():
        found = learn.lr_find(n_steps=options.steps)
    print_suggestions(found, options.recipe, learn.callbacks)
    if options.plot is not None:
        figure: Any = found.plot().figure
        try:
            options.plot.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.plot)
        except OSError as error:
            raise Mistake(f"--plot {options.plot}: it cannot be written: {error.strerror}.") from error
        print(f"wrote {options.plot}")
    return 0


def check_plot(path: Path | None) -> None:
    """Refuse a file that cannot be drawn, before the search."""
    if path is None:
        return
    if reason := why_undrawn():
        raise Mistake(f"--plot {path}: {reason}.")
    check_output(path, "--plot")
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise Mistake(f"--plot {path}: the suffix must be one of .{', .'.join(known)}.")


def print_suggestions(found: LRSearch, recipe: str, callbacks: Iterable[Callback]) -> None:
    """Print the rates, and how to use the first; or that there is none."""
    if not found.falls:
        print(f"Nothing to suggest: {NO_FALL}.")
        return
    for name in SUGGESTIONS:
        print(f"{NAMES.get(name, name):<12}{getattr(found, name):.2g}")
    scheduler = next((each for each in callbacks if sets_lr(each)), None)
    if scheduler is None:
        print(f"To use the first: learner run {shlex.quote(recipe)} optimizer.lr={found.valley:.2g}")
    else:
        print(
            f"{describe(scheduler)} sets the rate: change it there, because optimizer.lr would have no "
            "effect."
        )


def do_show(options: argparse.Namespace) -> int:
    """Print the resolved recipe, and the callbacks in the order in which they run."""
    recipe = load(options)
    print(recipe.resolved())
    recipe.build().explain()
    return 0
