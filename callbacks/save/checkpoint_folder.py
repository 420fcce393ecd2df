"""The folder of a run's checkpoints: which files are there, and which stay."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

FILE = re.compile(r"(step|best)-(\d{9,})\.pt")
LEFTOVER = re.compile(r"(step|best)-\d{9,}\.pt\.tmp")


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first: by step, not by the time of the file."""
    found = [each for each in folder.glob("*.pt") if FILE.fullmatch(each.name)]
    return sorted(found, key=lambda path: (step_of(path), path.name), reverse=True)


def step_of(path: Path) -> int:
    """The global step in a checkpoint's name."""
    match = FILE.fullmatch(path.name)
    return int(match.group(2)) if match else -1


def surplus(folder: Path, keep: int | None) -> list[Path]:
    """All but the newest checkpoints; the best ones stay."""
    steps = [each for each in checkpoints_in(folder) if each.name.startswith("step")]
    return steps[keep:] if keep is not None else []


def keep_as_best(path: Path) -> list[Path]:
    """Keep a checkpoint under the name of the best one too.

    Returns:
        The best ones before it.
    """
    target = path.with_name(path.name.replace("step", "best"))
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(path, temporary)
    temporary.replace(target)
    return other_bests(target)


def other_bests(path: Path) -> list[Path]:
    """The files of the best epoch beside this one."""
    return [each for each in checkpoints_in(path.parent) if each.name.startswith("best") and each != path]


def leftovers(folder: Path) -> list[Path]:
    """Files that a killed process left half written; call it while the folder is locked."""
    return [path for path in folder.glob("*.tmp") if LEFTOVER.fullmatch(path.name)]


def remove(paths: Iterable[Path]) -> OSError | None:
    """Remove files.

    Returns:
        The first error, where one cannot be removed; the others are.
    """
    first: OSError | None = None
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            first = first or error
    return first
