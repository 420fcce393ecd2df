"""Work that a thread does while training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PendingSave:
    """A file that a thread writes.

    Args:
        write: writes the file.
    """

    def __init__(self, write: Callable[[], None]):
        self._write = write
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="save")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # noqa: BLE001 - `wait` raises it
            self._error = error

    def wait(self) -> None:
        """Wait until the file is complete.

        Raises:
            OSError: it cannot be written.
        """
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error
