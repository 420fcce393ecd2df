"""`learner ls`: the names that a recipe can use, as lists or one in detail."""

from __future__ import annotations

import argparse
import inspect
import textwrap

from learner.cli.parser import Commands, Parser, add_plain_command
from learner.recipes.names import KINDS, first_line, installed, known, load_entry_point, signature_of, table
from learner.recipes.recipe_errors import Mistake, closest, width
from learner.recipes.user_code import UnusableName

MAX_SHOWN = 30  # names per kind in the overview
PLURALS = {kind.plural: name for name, kind in KINDS.items()}


def add_commands(commands: Commands[Parser]) -> None:
    """Add the command to the command line."""
    ls = add_plain_command(commands, "ls", "list the names for recipes, or describe one name")
    ls.add_argument("what", nargs="?", help="a group (callbacks, losses, optimizers, ...) or one name")
    ls.set_defaults(function=do_ls)


def do_ls(options: argparse.Namespace) -> int:
    """List names."""
    print(overview() if options.what is None else about(options.what))
    return 0


def overview() -> str:
    """All names by kind."""
    blocks = []
    for plural, kind in PLURALS.items():
        names = known(kind)
        shown = [
            *names[:MAX_SHOWN],
            *([f"and {len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []),
        ]
        text = textwrap.fill(", ".join(shown), width(), initial_indent="  ", subsequent_indent="  ")
        blocks.append(f"{plural}\n{text}")
    return "\n\n".join(
        [*blocks, "`learner ls callbacks` describes each in a line, `learner ls Adam` shows one in detail."]
    )


def about(what: str) -> str:
    """The list of a kind, or the details of one name."""
    kind = PLURALS.get(what) or (what if what in KINDS else None)
    if kind is not None:
        return list_of(kind)
    found = [kind for kind in KINDS if what in known(kind)]
    if not found:
        names = [*PLURALS, *(name for kind in KINDS for name in known(kind))]
        close = closest(what, names)
        hint = f"Did you mean {close}?" if close else f"The kinds are: {', '.join(PLURALS)}."
        raise Mistake(f"ls: {what!r} is not a kind or a name. {hint}")
    return "\n\n".join(details(kind, what) for kind in found)


def list_of(kind: str) -> str:
    """The names of a kind, one per line; broken packages are marked."""
    lines = {name: first_line(item) for name, item in table(kind).items()}
    for name, entry in installed(kind).items():
        try:
            lines[name] = f"{first_line(load_entry_point(entry))} [{entry.dist.name if entry.dist else '?'}]"
        except UnusableName as problem:
            lines[name] = f"BROKEN: {problem.message}"
    indent = min(28, max(map(len, lines), default=0) + 2)
    return "\n".join(line_of(name, about, indent) for name, about in lines.items())


def line_of(name: str, text: str, indent: int) -> str:
    """A name and its first sentence, shortened to the width of the terminal."""
    room = max(20, width() - max(indent, len(name) + 2))
    return f"{name:<{indent - 2}}  {textwrap.shorten(text, room, placeholder=' ...')}".rstrip()


def details(kind: str, name: str) -> str:
    """Its kind, its arguments with their defaults, and its documentation."""
    item = table(kind).get(name) or load_entry_point(installed(kind)[name])
    signature = signature_of(kind, item)
    lines = [f"{name}: {KINDS[kind].plural}"]
    for argument, parameter in signature.parameters.items():
        needed = parameter.default is parameter.empty
        lines.append(f"  {argument}: {'required' if needed else repr(parameter.default)}")
    home = str(getattr(item, "__module__", ""))
    if home.startswith("torch."):  # long, and half of it formulas
        text = f"{first_line(item)}\n\nhelp({home}.{item.__qualname__}) in Python shows the rest."
    else:
        text = inspect.getdoc(item) or ""
    return "\n".join([*lines, "", text]).rstrip()
