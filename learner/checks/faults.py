"""Faults as they are told: warnings at the line that called us, all errors at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from types import FrameType

from callbacks.contract import LearnerWarning

__all__ = ["LearnerWarning", "listed", "tell"]


def tell(faults: Iterable[Exception]) -> None:
    """Warn of what is doubtful, and raise what is wrong.

    Raises:
        TypeError, ValueError: the one fault as it is; of several, one error that lists them.
    """
    found = list(faults)
    for fault in found:
        if isinstance(fault, LearnerWarning):
            warn(fault)
    errors = [fault for fault in found if not isinstance(fault, LearnerWarning)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = TypeError if all(isinstance(error, TypeError) for error in errors) else ValueError
        lines = [f"  {number}. {error}" for number, error in enumerate(errors, 1)]
        raise kind("\n".join([f"{len(errors)} things are wrong:", *lines]))


def warn(warning: LearnerWarning) -> None:
    """Warn at the user's line: the first one outside of our two packages."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)


OURS = ("callbacks", "learner", "contextlib")


N_LISTED = 5


def listed(names: Sequence[str]) -> str:
    """Some names in a row, and how many more there are."""
    shown = ", ".join(names[:N_LISTED])
    return shown if len(names) <= N_LISTED else f"{shown} and {len(names) - N_LISTED} more"
