"""Wait until a file is on the disk, if the file system can."""

from __future__ import annotations

import errno
import os
from functools import cache
from pathlib import Path

from callbacks.core.warning import warn

#: The errors of fsync on file systems that do not support it, such as some network disks.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EROFS)

warn_once = cache(warn)


def sync_folder(folder: Path) -> None:
    """Make a rename durable, if the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        sync(descriptor, folder)
    finally:
        os.close(descriptor)


def sync(descriptor: int, folder: Path) -> None:
    """Wait until a file of a folder is on the disk; if the file system cannot, warn once."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        warn_once(
            f"{folder}: the file system does not support fsync ({error}). Checkpoints are "
            "still written, but a power failure may lose the newest ones."
        )
