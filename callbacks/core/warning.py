"""Warn at the user's line, even if standard error cannot be written to."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from callbacks.core.contract import LearnerWarning
from callbacks.core.ranks import is_first_process

#: Modules by their first name that a warning does not point to: our own, and what calls in between.
PASSED_OVER = ("callbacks", "learner", "contextlib", "functools", "torch")
UNUSABLE = ("closed file", "detached", "uninitialized")  # as the ValueErrors of Python's streams say it


def warn(message: str | LearnerWarning) -> None:
    """Warn with a `LearnerWarning` that points to the user's line, the first one outside these packages.

    Of several processes that train together, only the first warns.
    """
    if not is_first_process():
        return
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in PASSED_OVER:
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, LearnerWarning, stacklevel=level)
    except (OSError, ValueError) as error:
        if not is_output_error(error):
            raise


def is_output_error(error: BaseException | None) -> bool:
    """Whether an error comes from where output goes, rather than from a mistake in code."""
    if isinstance(error, (OSError, UnicodeEncodeError)):
        return True
    return isinstance(error, ValueError) and any(words in str(error) for words in UNUSABLE)
