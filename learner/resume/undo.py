"""Leave a learner unchanged if a checkpoint cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learner.files import checkpoint_file
from learner.state.snapshots import Undo


@contextmanager
def unchanged_on_error(undo: Undo, path: str | Path) -> Iterator[None]:
    """Restore a learner if the contents of a file cannot be loaded into it.

    Callbacks are restored only if they accept their own state.

    Raises:
        CheckpointError: something in the file cannot be loaded; raised from the original error.
    """
    try:
        yield
    except BaseException as error:
        try:
            undo.restore()
        except Exception:  # noqa: BLE001 - a callback refuses a state, which the original error reports
            undo.restore(callbacks={})
        if isinstance(error, checkpoint_file.CheckpointError) or not isinstance(error, Exception):
            raise
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise checkpoint_file.CheckpointError(
            f"{path} cannot be loaded into this learner, which is unchanged. "
            f"{type(error).__name__}: {error}{notes}"
        ) from error
