"""Handling of a checkpoint that could not be written."""

from __future__ import annotations

from pathlib import Path

from callbacks.core.contract import LearnerProtocol
from callbacks.core.warning import warn


def was_interrupted(learn: LearnerProtocol) -> bool:
    """Does the fit end because Ctrl-C or SIGTERM asked for it?"""
    return learn.interrupted is not None and learn.stop_reason == learn.interrupted


def report_failed(learn: LearnerProtocol, error: OSError, path: Path, n_final: int) -> None:
    """Warn of a failed save, or raise the error, unless a signal or another error ends the fit.

    Args:
        learn: the learner.
        error: why the file could not be written.
        path: the file.
        n_final: the number of failures in a row, if the error is to be raised; otherwise 0.

    Raises:
        OSError: `error`, with what to do.
    """
    rest = "The checkpoints before it are complete"
    in_memory = "the weights are in memory: learn.save('elsewhere.pt') keeps them."
    is_ending = was_interrupted(learn) or learn.error is not None
    if n_final and not is_ending:
        error.add_note(f"{path} was not written ({n_final} in a row). {rest}, and {in_memory}")
        raise error
    again = "and saving is tried again after the next interval."
    then = f"the fit ends here, and {in_memory}" if is_ending else again
    notes = "".join(f"{note} " for note in getattr(error, "__notes__", ()))
    warn(f"{path} was not written: {error}. {notes}{rest}, {then}")
