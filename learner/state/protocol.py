"""The attributes and methods of a learner that the upper floor uses, besides those that hooks may use."""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.registry import Callbacks
from callbacks.history.history import History
from learner.passes.passes import Known
from learner.state.moved_numbers import MovedNumbers
from learner.state.position import Place, Span

#: A function of the learner: all hooks of an event, or an operation.
Call = Callable[["FullLearner"], Any]


class Start(Protocol):
    """Where a fit resumes."""

    @property
    def in_validation(self) -> bool:
        """Is the training pass of its first epoch over?"""
        ...

    @property
    def n_validated(self) -> int:
        """How many validation passes of the first epoch are over?"""
        ...

    def begin(self, learn: FullLearner) -> int:
        """Restore the learner, after all `before_fit`, and return the first epoch."""
        ...

    def rewind(self, loader: Any) -> None:
        """Restore the random states of the start of the training pass, after a validation pass."""
        ...

    def batches(self, learn: FullLearner, loader: Any) -> tuple[int, Iterator[Any]]:
        """The number of batches that are done in the current pass, and an iterator over the others."""
        ...


class LoopProtocol(Protocol):
    """The loop of a learner; `Loop` documents the attributes and methods."""

    callbacks: Callbacks
    on: dict[str, Call]
    do: dict[str, Call]
    place: Place
    started: list[Callback]
    start: Start | None
    known: Known
    moved: MovedNumbers

    def connect(self, learn: FullLearner, callbacks: Iterable[Callback]) -> None: ...

    def runs_default(self, operation: str) -> bool: ...

    def fit(self, learn: FullLearner, n_epochs: int, start: Start | None = None) -> None: ...

    def validate(self, learn: FullLearner, loader: Any, name: str = "valid") -> None: ...

    def begin_pass(
        self, learn: FullLearner, loader: Any, training: bool, span: Span | None = None
    ) -> None: ...

    def run_batch(self, learn: FullLearner) -> None: ...

    def run_model(self, learn: FullLearner) -> None: ...

    def compute_loss(self, learn: FullLearner) -> None: ...

    def note_loss(self, learn: FullLearner) -> None: ...

    def run_backward(self, learn: FullLearner) -> None: ...

    def update(self, learn: FullLearner) -> None: ...


class FullLearner(LearnerProtocol, Protocol):
    """A learner with everything that the upper floor uses."""

    loop: LoopProtocol
    fitting: bool
    abortable: bool
    ignores_stops: bool
    n_fits: int
    n_epochs_before: int
    length_is_certain: bool
    valid_name: str
    reported: set[int | str]
    groups_at_start: list[dict[str, Any]] | None
    hidden_at_start: dict[str, Any] | None
    given: set[str] | None
    _loss: Any  # these three are for the loop alone
    _detached: Any
    _value: Any
    run_folder: Path | None
    splitter: Callable[..., Any] | None
    decay_norms: bool

    @property
    def optimizer_given(self) -> Any:
        """The optimizer or the factory that was passed to the learner."""
        ...

    @property
    def layer_groups(self) -> list[Any]:
        """The parameters by group, from input to output."""
        ...

    def fit(self, n_epochs: int, *args: Any, **settings: Any) -> History:
        """Train."""
        ...

    def fit_one_cycle(self, n_epochs: int, *args: Any, **settings: Any) -> History:
        """Train by the 1cycle policy."""
        ...

    def freeze(self) -> None:
        """Train the last layer group alone."""
        ...

    def unfreeze(self) -> None:
        """Train all layer groups."""
        ...

    def added(self, *callbacks: Any) -> Any:
        """Add callbacks within the block."""
        ...

    def without(self, *callbacks: Any) -> Any:
        """Remove callbacks within the block."""
        ...


def full(learn: LearnerProtocol) -> FullLearner:
    """The learner that the loop passes to a hook; every learner is a full one."""
    return learn  # type: ignore[return-value]
