"""The commands that write what runs without this library: `to-script` and `export`."""

from __future__ import annotations

import argparse
import io
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from learner.cli.parser import Commands, Parser, add_recipe_command, check_output, load
from learner.cli.predicting import add_run_command, opened, unwritten
from learner.recipes.recipe import Recipe
from learner.recipes.recipe_errors import Mistake, mistaken, width
from learner.scripts.compose import script_of
from learner.scripts.script import Script
from learner.scripts.to_script import still_needed, write_script


def add_commands(commands: Commands[Parser]) -> None:
    """Add the commands to the command line."""
    command = add_recipe_command(commands, "to-script", "convert the recipe to a plain PyTorch script")
    text = "the file to write (default: train.py next to the recipe)"
    command.add_argument("--output", type=Path, metavar="FILE", help=text)
    command.set_defaults(function=do_to_script)
    export = add_run_command(commands, "export", "write the model of a run to a file for other programs")
    text = "the file: .pt2 (torch.export), .onnx, .safetensors or .pt (weights)"
    export.add_argument("file", type=Path, help=text)
    text = "dimensions of the inputs that may vary, such as 0,1 (default: that of the items)"
    export.add_argument("--dynamic", type=dimensions, metavar="NUMBERS", help=text)
    export.set_defaults(function=do_export)


def do_to_script(options: argparse.Namespace) -> int:
    """Write the script."""
    check_output(options.output)
    recipe = load(options)
    path = options.output or Path(options.recipe).parent / "train.py"
    try:
        script = script_of_recipe(recipe)
        write_script(script, path)
    except ValueError as error:
        raise Mistake(f"{options.recipe}: {error}\nNothing was written.") from error
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror or error}") from error
    print(f"wrote {path}")
    for name in script.left_out:
        print(f"left out, because it does not change the training: {name}")
    report_files(script, recipe, path)
    return 0


def script_of_recipe(recipe: Recipe) -> Script:
    """The script of a recipe.

    Raises:
        RecipeError: a part cannot be built.
        ValueError: parts have no script form; the message lists all of them.
    """
    with recipe.importable():
        parts: dict[str, Any] = dict(recipe.sections.parts)  # both parts exist by now
        title = recipe.sections.value("recipe")
        return script_of(
            recipe.build(),
            recipe.n_epochs,
            model=parts["model"],
            data=parts["data"],
            seed=recipe.sections.seed,
            folder=recipe.path.parent,
            title="" if title is None else str(title.value),
        )


def report_files(script: Script, recipe: Recipe, path: Path) -> None:
    """Print which files the script needs next to it, and which of them still import this project."""
    files = recipe.names.code.sources()
    folder = recipe.path.parent
    if files and path.absolute().parent.resolve() != folder:
        names = ", ".join(each.relative_to(folder).as_posix() for each in files)
        print(f"the script imports the files next to the recipe; copy them next to it: {names}")
    if reason := still_needed(script, folder):
        print(reason)


def do_export(options: argparse.Namespace) -> int:
    """Open a run, and write its model."""
    check_output(options.file, "the file")
    learn = opened(options)
    printed = io.StringIO()
    try:
        with mistaken(ImportError, TypeError, ValueError), redirect_stdout(printed):
            learn.export(options.file, dynamic=options.dynamic)
    except OSError as error:
        raise unwritten(options.file, error) from error
    for line in printed.getvalue().splitlines():
        print(textwrap.fill(line, width(), subsequent_indent="  "))
    return 0


def dimensions(text: str) -> tuple[int, ...]:
    """The numbers of dimensions, as `0,1`; an empty text for none."""
    return tuple(int(word) for word in text.split(",") if word.strip())
