"""Output for the user that may fail: a full disk, a closed pipe, a stream that is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from callbacks.core.ranks import is_first_process
from callbacks.core.warning import is_output_error, warn

#: The streams, by name in `sys`, whose failure was reported.
reported: dict[str, Any] = {}


def listed(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, separated by commas, and the number of the others."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def with_article(value: object) -> str:
    """The class of an object with its article, by its sound: `a list`, `an ndarray`, `an LSTM`."""
    name = type(value).__name__
    is_an = name.startswith((*"AEIOaeio", "nd", "LS", "MS", "RN"))
    return f"{'an' if is_an else 'a'} {name}"


def print_line(text: str, stream: Literal["stdout", "stderr"] = "stdout", *, flush: bool = False) -> None:
    """Print a line, whose failure must not end the training.

    Characters that the stream cannot encode are written as escapes. If the stream fails, the first failure is
    a warning, and the lines are lost. If several processes train together, only the first prints.
    """
    if not is_first_process():
        return
    target = getattr(sys, stream)
    if target is None:  # as under pythonw
        return
    try:
        write_line(target, text, flush)
    except (OSError, ValueError) as error:
        if not is_output_error(error):
            raise
        if reported.get(stream) is not target:
            reported[stream] = target
            warn_of_failure(f"sys.{stream}", error, "The program")


def write_line(target: Any, text: str, flush: bool) -> None:
    """Write a line, with escapes for what the stream cannot encode."""
    try:
        print(text, file=target, flush=flush)
    except UnicodeEncodeError as error:
        escaped = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
        print(escaped, file=target, flush=flush)


class Output:
    """A context for a reporting callback's output: its first failure is a warning, later ones are silent.

    After `has_failed`, nothing more should be written.
    """

    def __init__(self, owner: str):
        self.owner, self.has_failed = owner, False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or not is_output_error(error):
            return False
        if not self.has_failed:
            self.has_failed = True
            warn_of_failure(self.owner, error)
        return True


def warn_of_failure(owner: str, error: BaseException, what: str = "Training") -> None:
    """Warn that an output has failed."""
    was_closed = isinstance(error, BrokenPipeError)  # by its reader, such as `head`
    hint = "" if was_closed else " Free disk space, or send the output elsewhere."
    words = f"{type(error).__name__}: {error}"
    warn(f"{owner}: writing the output failed ({words}). {what} continues without it.{hint}")
