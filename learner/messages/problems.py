"""Faults as they are told: warnings at the line that called us, all errors at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from callbacks.core.contract import LearnerWarning
from callbacks.core.warning import warn

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


N_LISTED = 5


def listed(names: Sequence[str]) -> str:
    """Some names in a row, and how many more there are."""
    shown = ", ".join(names[:N_LISTED])
    return shown if len(names) <= N_LISTED else f"{shown} and {len(names) - N_LISTED} more"
