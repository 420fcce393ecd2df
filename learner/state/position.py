"""The position of the loop as state, which the notes of errors and checkpoints use."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

from callbacks.core.contract import Callback, Cancel
from callbacks.core.registry import describe

#: Called if no callback listens to an event or implements an operation: a builtin function of one argument
#: that does nothing with a learner and creates no Python frame.
nobody: Callable[[Any], Any] = operator.truth

Span = Literal["train", "validate", "predict"]


class Place:
    """The current pass, and the hook and operations that an error was raised in.

    Only `except` clauses write here, so a step without an error costs nothing.

    Attributes:
        span: the current pass; None between passes.
        fetching: index of the batch that was being fetched when the error was raised; None if it was raised
            elsewhere.
        in_batch: was the error raised in a batch?
        hook: the callback and its hook, such as `Probe.after_batch`; if one hook calls another, the outer
            one.
        operations: the operations, innermost first.
    """

    def __init__(self, span: Span | None = None):
        self.span = span
        self.fetching: int | None = None
        self.in_batch: bool = False
        self.hook: str | None = None
        self.operations: list[str] = []
        self._error = 0  # its id: the error itself would keep its frames, and their tensors, alive

    def note_hook_error(self, error: BaseException, callback: Callback, hook: str) -> None:
        """Note that a hook, or an operation that a callback implements, has raised an error."""
        if isinstance(error, Cancel):  # must be quick: it may occur at each step, and is usually no error
            error.raised_by = callback, hook
        else:
            self._begin(error)
            self.hook = f"{describe(callback)}.{hook}"

    def note_operation_error(self, error: BaseException, operation: str) -> None:
        """Note that an operation has raised an error."""
        if not isinstance(error, Cancel):
            self._begin(error)
            self.operations.append(operation)

    def note_batch_error(self, n_fetched: int, n_done: int) -> None:
        """Note that an error has ended the loop over batches."""
        self.in_batch = n_fetched != n_done
        self.fetching = None if self.in_batch else n_done
        if not self.in_batch:  # these belong to an earlier error
            self.hook, self.operations = None, []

    def _begin(self, error: BaseException) -> None:
        if self._error != id(error):  # a hook has caught the error before this one
            self._error, self.hook, self.operations = id(error), None, []
