"""Check a path that a user passes, and write a file completely or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
            f"{owner}({argument}={str(path)!r}): this is an address, and files are read and written on this "
            "machine only: pass the path of a local copy."
        )
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def followed(path: Path) -> Path:
    """The file that a link leads to; another path as it is."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file next to a file, which it replaces in one step if the block ends without an error.

    If the file is a link, the file that it leads to is replaced.
    """
    path = followed(path)
    part = path.with_name(f"{path.name}.tmp")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
