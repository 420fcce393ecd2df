"""The folders next to checkpoint files that hold the tensors of sharded models."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

SUFFIX = ".shards"
NAME = re.compile(rb"(?:step|best)-\d{9,}-[0-9a-f]{8}\.shards")


def name_in(path: Path) -> str | None:
    """The name of the folder that a checkpoint file needs; None if it needs none. Nothing is unpickled.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each for each in archive.namelist() if each.endswith("/data.pkl")]
            found = NAME.search(archive.read(names[0])) if names else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is not complete ({error})") from None
    return None if found is None else found.group().decode()


def remove_unused(folder: Path) -> None:
    """Remove the folders that no checkpoint file needs; call this while the folder is locked.

    If a file cannot be read, all stay.
    """
    there = [each for each in folder.glob(f"*{SUFFIX}*") if NAME.match(each.name.encode())]
    if not there:
        return
    try:
        used = {name_in(path) for path in folder.glob("*.pt")}
    except (OSError, ValueError):
        return
    for each in there:
        if each.name not in used:
            shutil.rmtree(each, ignore_errors=True)
