"""The user's files that a script imports, and which of them import this project."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from learner.scripts.expressions import OURS


def files_importing_project(modules: Iterable[str], folder: Path) -> list[Path]:
    """The files that import this project, among these modules of a folder and those that they import."""
    found, seen, left = list[Path](), set[Path](), [(module, folder) for module in sorted(modules)]
    while left:
        path = file_of(*left.pop(0))
        if path is None or path in seen:
            continue
        seen.add(path)
        for level, name in imported_names(path):
            if not level and name.partition(".")[0] in OURS:
                found.append(path)
            left.append((name, path.parents[level - 1] if level else folder))
    return list(dict.fromkeys(found))


def file_of(module: str, folder: Path) -> Path | None:
    """The file of a module in a folder; None if it is elsewhere."""
    place = folder.joinpath(*module.split("."))
    tried = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((each for each in tried if each.is_file()), None)


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, each with its number of leading dots; also what may be one."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((0, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = f"{node.module}." if node.module else ""
            if node.module:
                yield node.level, node.module
            yield from ((node.level, f"{start}{each.name}") for each in node.names)
