"""The folder of a run's checkpoints: which files are there, which stay, and who may write to it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import IO

FILE = re.compile(r"(step|best)-(\d{9,})\.pt")
LEFTOVER = re.compile(r"(step|best)-\d{9,}\.pt\.tmp")
LOCK = ".lock"

#: Folders that this process saves to: a lock of the system does not tell its own holder.
held: set[Path] = set()


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first: by step, not by the time of the file."""
    found = [each for each in folder.glob("*.pt") if FILE.fullmatch(each.name)]
    return sorted(found, key=lambda path: (step_of(path), path.name), reverse=True)


def step_of(path: Path) -> int:
    """The global step in a checkpoint's name."""
    match = FILE.fullmatch(path.name)
    return int(match.group(2)) if match else -1


def prune(folder: Path, keep: int | None) -> None:
    """Remove all but the newest; the best ones stay."""
    if keep is not None:
        for path in [each for each in checkpoints_in(folder) if each.name.startswith("step")][keep:]:
            path.unlink(missing_ok=True)


def keep_as_best(path: Path) -> None:
    """Have a checkpoint under the name of the best as well, then remove the best one before."""
    target = path.with_name(path.name.replace("step", "best"))
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(path, temporary)
    temporary.replace(target)
    for other in path.parent.glob("best-*.pt"):
        if FILE.fullmatch(other.name) and other != target:
            other.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process has left half written; the folder is locked, so nobody writes now."""
    for path in folder.glob("*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def open_folder(folder: Path, lock: IO[str] | None = None) -> IO[str]:
    """Make the folder, try to write to it, and lock it against other processes.

    Raises:
        RuntimeError: another process, or another learner of this one, saves to it.
        OSError: it cannot be written to.
    """
    if lock is not None:
        close_folder(folder, lock)
    if folder in held:
        raise RuntimeError(
            f"{folder}: another learner of this process saves to it. Give each its own folder."
        )
    file = open_lock(folder)
    try:
        lock_file(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
            return file
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise RuntimeError(
            f"{folder}: another process saves to it ({owner}). Wait until it has ended, or pass another "
            "folder: two runs in one would mix their files."
        ) from None
    file.truncate(0)
    file.write(
        f"process {os.getpid()} on {os.uname().nodename if hasattr(os, 'uname') else 'this machine'}\n"
    )
    file.flush()
    held.add(folder)
    return file


def open_lock(folder: Path) -> IO[str]:
    """The file that is locked, open, in a folder that was made and can be written to.

    Raises:
        OSError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{uuid.uuid4().hex}.tmp"
        probe.write_bytes(b"\0")
        probe.unlink()
        return (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        error.add_note(f"Checkpoint({str(folder)!r}): pass a folder that can be written to.")
        raise


def close_folder(folder: Path, lock: IO[str]) -> None:
    """Unlock it for others."""
    held.discard(folder)
    lock.close()  # which unlocks it; the empty file stays, as another process may be about to lock it


def lock_file(file: IO[str]) -> None:
    """Lock an open file against other processes.

    A lock of the process, not of the file: a loader's workers, which inherit open files and may outlive a
    killed run by seconds, hold none.

    Raises:
        OSError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
