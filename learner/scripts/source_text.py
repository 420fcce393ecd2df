"""Lay out Python source as `ruff format` does, and import what it uses."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from textwrap import dedent

WIDTH = 100

#: The import that a name in the source needs: the sign after it, and (module, name); without a name the
#: module itself.
USUAL = {
    "csv": (".", "csv", ""),
    "copy": (".", "copy", ""),
    "math": (".", "math", ""),
    "random": (".", "random", ""),
    "time": (".", "time", ""),
    "np": (".", "numpy", "as np"),
    "torch": (".", "torch", ""),
    "nn": (".", "torch", "nn"),
    "F": (".", "torch.nn", "functional as F"),
    "Path": ("(", "pathlib", "Path"),
    "partial": ("(", "functools", "partial"),
    "@contextmanager": ("\n", "contextlib", "contextmanager"),
    "load_digits": ("(", "sklearn.datasets", "load_digits"),
    "load_diabetes": ("(", "sklearn.datasets", "load_diabetes"),
}

CLOSING = {"(": ")", "[": "]", "{": "}"}


def block(text: str) -> list[str]:
    """The lines of an indented text."""
    return dedent(text).strip("\n").splitlines()


def indented(lines: Iterable[str]) -> str:
    """The lines of the body of a function; lines that are too long are divided."""
    found: list[str] = []
    for line in lines:
        own = len(line) - len(line.lstrip()) + 4
        fitted = fitting(line.strip(), WIDTH - own)
        found += [f"{' ' * own}{each}" if each else "" for each in fitted]
    return "\n".join(found)


def fitting(line: str, width: int) -> list[str]:
    """A statement in lines of this width: each item in its last bracket gets its own line."""
    start = last_bracket(line)
    if len(line) <= width or start is None or line.lstrip().startswith("#"):
        return [line]
    end = match_of(line, start)
    items = split_items(line[start + 1 : end])
    if any(" for " in item for item in items):  # a comprehension is one item
        return [line[: start + 1], f"    {line[start + 1 : end]}", line[end:]]
    inner = [part for item in items for part in fitting(f"{item},", width - 4)]
    return [line[: start + 1], *(f"    {each}" for each in inner), line[end:]]


def last_bracket(line: str) -> int | None:
    """The position of the last opening bracket that is in no other bracket and is not empty."""
    found, position = None, 0
    for position, depth, sign in walk(line):
        if sign in CLOSING and depth == 0 and line[position + 1] != CLOSING[sign]:
            found = position
    return found


def match_of(line: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    return next(
        position
        for position, depth, sign in walk(line)
        if position > start and depth == 0 and sign in CLOSING.values()
    )


def split_items(text: str) -> list[str]:
    """The items between the commas of a bracket."""
    commas = [position for position, depth, sign in walk(text) if sign == "," and depth == 0]
    parts = [text[a + 1 : b] for a, b in zip([-1, *commas], [*commas, len(text)], strict=True)]
    return [part.strip() for part in parts if part.strip()]


def walk(text: str) -> Iterable[tuple[int, int, str]]:
    """Each character outside of strings, with its position and the number of brackets around it."""
    depth, quote, escaped = 0, "", False
    for position, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote and not escaped else quote
            escaped = sign == "\\" and not escaped
            continue
        if sign in "\"'":
            quote = sign
            continue
        depth -= sign in CLOSING.values()
        yield position, depth, sign
        depth += sign in CLOSING


def imports_for(source: str, others: Iterable[tuple[str, str]]) -> str:
    """The import statements for what a source uses; `others` are (module, name) from outside of torch."""
    wanted = {
        (module, name)
        for used, (sign, module, name) in USUAL.items()
        if re.search(rf"(?<![\w.]){re.escape(used + sign)}", source)
    }
    sections: dict[int, dict[str, set[str]]] = {}
    for module, name in wanted | set(others):
        sections.setdefault(section_of(module), {}).setdefault(module, set()).add(name)
    return "\n\n".join("\n".join(statements(sections[each])) for each in sorted(sections))


def section_of(module: str) -> int:
    """0 for the standard library, 1 for installed packages, 2 for the user's files."""
    top = module.partition(".")[0]
    if module.startswith("./"):
        return 2
    return 0 if top in sys.stdlib_module_names else 1


def statements(modules: dict[str, set[str]]) -> list[str]:
    """The statements of a section, sorted as `ruff` sorts them."""
    found: list[tuple[bool, str, str]] = []
    for module, names in modules.items():
        path = module.removeprefix("./")
        whole = {name for name in names if not name or name.startswith("as ")}
        renamed = {name for name in names - whole if " as " in name}
        found += [(False, path, f"import {path} {name}".strip()) for name in whole]
        if names - whole - renamed:
            listed = ", ".join(sorted(names - whole - renamed, key=kind_and_name))
            line = f"from {path} import {listed}"
            if len(line) > WIDTH:
                line = "\n".join(fitting(f"from {path} import ({listed})", 0))
            found.append((True, path, line))
        found += [(True, path, f"from {path} import {name}") for name in renamed]
    return [line for _, _, line in sorted(found)]


def kind_and_name(name: str) -> tuple[int, str]:
    """Constants before classes before functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name
