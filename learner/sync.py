"""Wait until the disk has a file, where the file system can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from callbacks.parts.warning import warn

#: What fsync gives where a file system has no such thing, as some network disks, of files or of folders.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EROFS)

#: Folders whose file system cannot sync, as was reported.
unsynced: set[Path] = set()


def sync_folder(folder: Path) -> None:
    """Make a rename last, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        sync(descriptor, folder)
    finally:
        os.close(descriptor)


def sync(descriptor: int, folder: Path) -> None:
    """Wait until the disk has a file of a folder; where the file system cannot, warn once."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        if folder not in unsynced:
            unsynced.add(folder)
            warn(
                f"{folder}: the file system cannot wait until its disk has a file ({error}). Checkpoints are "
                "written all the same, but a power cut may cost the newest ones."
            )
