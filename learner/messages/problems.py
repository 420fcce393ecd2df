"""Report the problems that checks find: warnings at the caller's line, and all errors in one."""

from __future__ import annotations

from collections.abc import Iterable

from callbacks.core.contract import LearnerWarning
from callbacks.core.output import listed
from callbacks.core.warning import warn

__all__ = ["LearnerWarning", "listed", "report_problems"]


def report_problems(problems: Iterable[Exception]) -> None:
    """Show each `LearnerWarning` as a warning, and raise the errors."""
    found = list(problems)
    for problem in found:
        if isinstance(problem, LearnerWarning):
            warn(problem)
    errors = [problem for problem in found if not isinstance(problem, LearnerWarning)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = TypeError if all(isinstance(error, TypeError) for error in errors) else ValueError
        lines = [f"  {number}. {error}" for number, error in enumerate(errors, 1)]
        raise kind("\n".join([f"{len(errors)} errors:", *lines]))
