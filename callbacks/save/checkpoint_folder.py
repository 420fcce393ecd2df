"""The folder of checkpoints: which files exist, and which stay."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from callbacks.core.contract import LearnerProtocol

BEST = "best.pt"  # a second name of the best file, which does not change
FILE = re.compile(r"(step|best)-(\d{9,})\.pt")
LEFTOVER = re.compile(r"(step|best)(-\d{9,})?\.pt(\.[0-9a-f]+-\d+-[0-9a-f]+)?\.tmp")


def folders_of(learn: LearnerProtocol) -> list[Path]:
    """Where the callbacks of a learner save its checkpoints."""
    folders = [getattr(each, "folder", None) for each in learn.callbacks if each.saves_checkpoints]
    return [Path(each) for each in folders if each is not None]


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first; by step, not by file time."""
    found = [each for each in folder.glob("*.pt") if FILE.fullmatch(each.name)]
    return sorted(found, key=lambda path: (step_of(path), path.name), reverse=True)


def saved_in(folder: Path) -> bool:
    """Is there a checkpoint in the folder or below it?"""
    return any(checkpoints_in(each.parent) for each in folder.rglob("step-*.pt"))


def step_of(path: Path) -> int:
    """The global step in the name of a checkpoint."""
    match = FILE.fullmatch(path.name)
    return int(match.group(2)) if match else -1


def surplus(folder: Path, keep: int | None) -> list[Path]:
    """All except the newest checkpoints and the best ones."""
    steps = [each for each in checkpoints_in(folder) if each.name.startswith("step")]
    return steps[keep:] if keep is not None else []


def keep_as_best(path: Path) -> list[Path]:
    """Also keep a checkpoint under the name of the best one.

    Returns:
        The former best files.
    """
    target = path.with_name(path.name.replace("step", "best"))
    link(path, target)
    link(path, path.with_name(BEST))
    return other_bests(target)


def link(path: Path, target: Path) -> None:
    """Give a file a second name, which another file may have; copy it if the file system has no links."""
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(target)


def other_bests(path: Path) -> list[Path]:
    """The other files of a best epoch in the folder."""
    return [each for each in checkpoints_in(path.parent) if each.name.startswith("best") and each != path]


def leftovers(folder: Path) -> list[Path]:
    """Files that a killed process left incomplete; call this while the folder is locked."""
    return [path for path in folder.glob("*.tmp") if LEFTOVER.fullmatch(path.name)]


def remove(paths: Iterable[Path]) -> OSError | None:
    """Remove files.

    Returns:
        The first error, if a file cannot be removed; the other files are removed.
    """
    first: OSError | None = None
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            first = first or error
    return first
