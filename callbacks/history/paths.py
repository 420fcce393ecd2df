"""Check a path that a user passes, and write a file completely or not at all, optionally in a thread."""

from __future__ import annotations

import os
import platform
import re
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

ADDRESS = re.compile(r"\w{2,}:/")  # such as s3://; the drive of a Windows path has one letter


def as_path(owner: str, argument: str, path: Any, form: str) -> Path:
    """A string or path as a path, in which `~` is the home directory.

    Args:
        owner: the function or class, for messages.
        argument: its argument.
        path: what was passed.
        form: what to pass: "the name of a file, such as 'log.csv'".
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"{owner}({argument}={path!r}): pass {form}.")
    if ADDRESS.match(str(path)):
        raise ValueError(
            f"{owner}({argument}={str(path)!r}): this is a URL, but only local files can be read and "
            "written. Pass the path of a local copy."
        )
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def followed(path: Path) -> Path:
    """The file that a link leads to; another path as it is."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file next to a file, which it replaces in one step if the block ends without an error.

    Its name is unique, so that two processes can write the same file; the last one to finish wins. Temporary
    files of killed processes are removed. If the file is a link, the file that it leads to is replaced.
    """
    path = followed(path)
    remove_leftovers(path)
    part = path.with_name(f"{short_name(path)}.{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class PendingSave:
    """A file that a thread writes while training continues.

    Args:
        write: writes the file.
    """

    def __init__(self, write: Callable[[], None]):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._written = self._thread.submit(write)
        self._thread.shutdown(wait=False)  # the thread ends with the file

    def wait(self) -> None:
        """Wait until the file is complete.

        Raises:
            OSError: it cannot be written.
        """
        self._thread.shutdown()
        self._written.result()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of this file that killed processes of this machine have left."""
    pattern = re.compile(rf"{re.escape(short_name(path))}\.{machine()}-(\d+)-[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):  # the folder is missing, or cannot be listed
        for each in os.scandir(path.parent):
            found = pattern.fullmatch(each.name)
            if found and not is_running(int(found[1])):
                with suppress(OSError):
                    Path(each.path).unlink()


def short_name(path: Path) -> str:
    """The start of a file's name: with a suffix it fits in the 255 bytes that a name may have."""
    return path.name[:50]


@cache
def machine() -> str:
    """A short name of this machine, whose processes have the numbers in the names of temporary files."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def is_running(process: int) -> bool:
    """Does a process of this machine run? On Windows, where a file in use cannot be removed, only our own."""
    if os.name == "nt":
        return process == os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
