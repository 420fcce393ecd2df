"""What the commands of the command line have in common: the parser, a recipe with overrides, its errors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from learner.recipes.recipe import Recipe, load_recipe
from learner.recipes.recipe_errors import Mistake, closest

COMMANDS = (
    *("run", "resume", "check", "show", "lr-find", "verify-resume", "replay", "runs", "report", "compare"),
    *("predict", "test", "sweep", "to-script", "export", "ls", "init", "doctor"),
)

Commands = argparse._SubParsersAction  # argparse has no public name for what `add_subparsers` returns


class Parser(argparse.ArgumentParser):
    """argparse's parser, with suggestions."""

    def error(self, message: str) -> NoReturn:
        word = message.partition("argument command: invalid choice: '")[2].partition("'")[0]
        if word:
            close = closest(word, COMMANDS)
            looks_like_file = word.endswith((".yaml", ".yml"))
            meant = f"learner run {word}" if looks_like_file else f"learner {close}" if close else ""
            message = f"{word!r} is not a command. " + (f"Did you mean `{meant}`? " if meant else "")
            message += f"The commands are: {', '.join(COMMANDS)}."
        self.exit(2, f"{self.prog}: {message}\nSee `{self.prog} --help`.\n")


def add_plain_command(commands: Commands[Parser], name: str, description: str) -> Parser:
    """Add a command, with its description in the list of commands and in its own help."""
    return commands.add_parser(name, help=description, description=description, allow_abbrev=False)


def add_recipe_command(
    commands: Commands[Parser],
    name: str,
    description: str,
    *,
    argument: str = "recipe",
    what: str = "a YAML file",
    override: str = "override an entry, such as optimizer.lr=0.1 or callbacks.LogRMSE=null",
) -> Parser:
    """Add a command that takes a recipe and overrides."""
    parser = add_plain_command(commands, name, description)
    parser.add_argument("recipe", metavar=argument, help=what)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help=override)
    add_trust(parser)
    return parser


def add_trust(parser: Parser) -> None:
    """Add the options of a command that runs the code of a recipe."""
    text = "allow the recipe to import from this package"
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=text)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def check_output(path: Path | None, option: str = "--output") -> None:
    """Refuse a file that cannot be written because of a folder or a file in the way."""
    if path is not None and path.is_dir():
        raise Mistake(f"{option} {path}: this is a folder; pass a file in it.")
    blocking = next((each for each in path.parents if each.is_file()), None) if path else None
    if blocking is not None:
        raise Mistake(f"{option} {path}: {blocking} is a file, not a folder.")


def load(options: argparse.Namespace) -> Recipe:
    """Read and check the recipe of a command line."""
    if options.recipe.endswith(".py"):
        other = other_file(options.recipe)
        raise Mistake(f"{options.recipe}: this is a Python file, and a recipe is a YAML file. {other}")
    try:
        return load_recipe(options.recipe, options.overrides, allow=options.allow)
    except OSError as error:
        raise unreadable(options.recipe, error) from error


def unreadable(path: str, error: OSError) -> Mistake:
    """The error for a recipe that cannot be read, with a suggestion."""
    return Mistake(f"{path}: {error.strerror or error}. {other_file(path)}")


def other_file(given: str) -> str:
    """Suggest a recipe near the file that was given."""
    path = Path(given)
    if path.is_dir():
        inside = sorted(str(each) for each in path.glob("*.y*ml"))
        return f"Choose a recipe in it: {', '.join(inside)}." if inside else "There is no recipe in it."
    if "=" in given:
        return "Write the recipe first, then the overrides."
    beside = [str(each) for pattern in ("*.yaml", "*.yml") for each in path.parent.glob(pattern)]
    below = [] if path.is_absolute() else [str(each) for each in Path().glob("*/*.yaml")]
    close = closest(given, [*beside, *below])
    if close:
        return f"Did you mean {close}?"
    found = sorted(beside or below)
    return f"Available: {', '.join(found[:8])}." if found else "`learner init` writes a recipe."
