"""Print, once in a process, that the weights of a fit are in memory only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from callbacks.core.contract import LearnerProtocol
from callbacks.core.output import print_line

UNKEPT = "the weights are in memory only; learn.save('model.pt') keeps them"

#: Not empty if the line was printed, or is not needed because this process keeps weights.
known: set[str] = set()


def note_kept() -> None:
    """Remember that this process keeps weights in files."""
    known.add("kept")


@contextmanager
def not_meant_to_last() -> Iterator[None]:
    """Do not print the line in this block, because its learners are only measured."""
    is_new = "dropped" not in known
    known.add("dropped")
    try:
        yield
    finally:
        if is_new:
            known.discard("dropped")


def report_unkept(learn: LearnerProtocol, *, in_notebook: bool) -> None:
    """Print the line after the first fit without a `Checkpoint`; to standard error, as it is not a result."""
    if learn.interrupted is not None or any(each.saves_checkpoints for each in learn.callbacks):
        return
    if not known:
        known.add("printed")
        print_line(UNKEPT, "stdout" if in_notebook else "stderr")
