"""Work that a thread does while training continues."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class PendingSave:
    """A file that a thread writes.

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
