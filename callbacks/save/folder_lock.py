"""A lock on the folder of a run, so that one learner at a time writes to it."""

from __future__ import annotations

import errno
import os
import uuid
from functools import cache
from pathlib import Path

from callbacks.core.warning import warn
from callbacks.save.checkpoint_folder import checkpoints_in

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # EDEADLK: on Windows

#: The locks of this process by folder, so that the message can name the process.
held: dict[Path, FolderLock] = {}


class FolderLock:
    """A folder that is created if needed and locked against other processes until `release`.

    The lock belongs to the open file, so it stays when other code opens and closes the lock file, for example
    to copy the folder. A forked worker of a loader releases it at once, because it may outlive a killed run
    by seconds.

    Args:
        folder: an absolute path.

    Raises:
        RuntimeError: another process, or another learner of this process, saves to the folder.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder, self.has_locks = folder, True
        self.token = uuid.uuid4().hex
        self.file = -1
        self._take()
        try:
            self.sign()
        except OSError:
            self.release()
            raise

    def _take(self) -> None:
        if self.folder in held:
            raise RuntimeError(
                f"{self.folder}: another learner of this process saves to it. Use a separate folder for each."
            )
        self.file = open_lock_file(self.folder)
        self._lock()
        if self.has_locks:
            held[self.folder] = self

    def _lock(self) -> None:
        """Lock the file; locking again is harmless, and needed if a network disk has lost the lock."""
        try:
            lock(self.file)
        except OSError as error:
            if error.errno in TAKEN:
                owner = read_lines(self.file)[0] or "unknown"
                self.release()
                raise RuntimeError(
                    f"{self.folder}: another process saves to it ({owner}). Wait until it has ended, or pass "
                    "another folder: two runs in one would mix their files."
                ) from None
            self.has_locks = False
            warn(
                f"{self.folder}: the file system has no locks ({error}), so a second run in this folder "
                "would not be noticed. Use a separate folder for each run."
            )

    def sign(self) -> None:
        """Write the owner of the lock into the file."""
        host = os.uname().nodename if hasattr(os, "uname") else "this machine"
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        os.write(self.file, f"process {os.getpid()} on {host}\n{self.token}\n".encode())

    def renew(self) -> None:
        """Check that the folder is the one that was locked; lock it again if it was replaced.

        Raises:
            RuntimeError: another run has the folder now.
            OSError: the folder cannot be created or written to.
        """
        if is_at(self.file, self.folder / LOCK):
            if self.has_locks and fcntl is not None:
                self._lock()
            return
        self.release()
        self._take()
        token = read_lines(self.file)[1]
        if token not in ("", self.token) and checkpoints_in(self.folder):
            self.release()
            raise RuntimeError(
                f"{self.folder} was replaced while this run trained, and contains another run now. Nothing "
                "was written there. The weights are still in memory: learn.save('elsewhere.pt') saves them."
            )
        self.sign()
        if token != self.token:  # otherwise it was moved away and copied back
            warn(
                f"{self.folder} was deleted or replaced while this run trained. It is created and locked "
                "again, and training continues; the checkpoints that were in it may be lost."
            )

    def release(self) -> None:
        """Unlock the folder. The file stays, because another process may be about to lock it."""
        if held.get(self.folder) is self:
            del held[self.folder]
            if fcntl is not None:
                fcntl.flock(self.file, fcntl.LOCK_UN)  # a new child process may have the file open
        self.close()

    def close(self) -> None:
        """Close the file; a copy in another process stays locked."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def open_lock_file(folder: Path) -> int:
    """Open the lock file in a folder that exists and can be written to.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{uuid.uuid4().hex}.tmp"
        probe.write_bytes(b"\0")
        probe.unlink()
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        error.add_note(f"Checkpoint({str(folder)!r}): pass a folder that can be written to.")
        raise


def read_lines(file: int) -> tuple[str, str]:
    """The owner and the token in a lock file; empty strings if there are none."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        lines = os.read(file, 1000).decode(errors="replace").splitlines()
    except OSError:  # on Windows nobody can read a locked file
        lines = []
    return (*lines, "", "")[0], (*lines, "", "")[1]


def is_at(file: int, path: Path) -> bool:
    """Is an open file the one at this path?"""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def lock(file: int) -> None:
    """Lock an open file against other processes.

    Raises:
        OSError: another process holds the lock, or the file system has no locks.
    """
    if fcntl is None:
        import msvcrt  # Windows

        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        watch_forks()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@cache
def watch_forks() -> None:
    """Make forked children close their copies of the locks, which would otherwise last as long as they do."""
    os.register_at_fork(after_in_child=give_up)


def give_up() -> None:
    """Close the lock files of this process; those of the parent stay locked."""
    for each in held.values():
        each.close()
    held.clear()
