"""The position of the loop, kept as state: for the notes of errors, and for what a checkpoint saves."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

from callbacks.core.contract import Callback, Cancel
from callbacks.core.registry import describe

#: Called where nobody listens to an event or implements an operation: a builtin of one argument that does
#: nothing with a learner and makes no Python frame.
nobody: Callable[[Any], Any] = operator.truth

Span = Literal["train", "validate", "predict"]


class Place:
    """The current pass, and the hooks and operations that an error has passed through.

    A step without an error writes nothing here: only an `except` does, which costs nothing until then.

    Attributes:
        span: the pass under way; None between passes.
        fetching: index of the batch that was being fetched when the error was raised; None elsewhere.
        in_batch: was it raised in a batch?
        hook: the callback and its hook, as `Probe.after_batch`; the outermost where one hook calls another.
        operations: the operations, innermost first.
    """

    def __init__(self, span: Span | None = None):
        self.span = span
        self.fetching: int | None = None
        self.in_batch = False
        self.hook: str | None = None
        self.operations: list[str] = []
        self._error = 0  # its id: the error itself would keep its frames, and their tensors, alive

    def came_through_hook(self, error: BaseException, plugin: Callback, hook: str) -> None:
        """An error leaves a hook, or an operation that a callback implements."""
        if isinstance(error, Cancel):  # may be raised at each step, and mostly ends well: it names its owner
            error.raised_by = plugin, hook
        else:
            self._begin(error)
            self.hook = f"{describe(plugin)}.{hook}"

    def came_through_operation(self, error: BaseException, operation: str) -> None:
        """An error leaves an operation."""
        if not isinstance(error, Cancel):
            self._begin(error)
            self.operations.append(operation)

    def came_through_batches(self, n_fetched: int, n_done: int) -> None:
        """An error leaves the loop over batches."""
        self.in_batch = n_fetched != n_done
        self.fetching = None if self.in_batch else n_done
        if not self.in_batch:  # what an earlier error has left
            self.hook, self.operations = None, []

    def _begin(self, error: BaseException) -> None:
        if self._error != id(error):  # the one before was caught by a hook
            self._error, self.hook, self.operations = id(error), None, []
