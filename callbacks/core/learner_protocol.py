"""What a hook may use of the learner.

These are protocols, so that the callbacks import nothing of the learner: `learner/learner.py` satisfies them.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from callbacks.history.direction import Direction
from callbacks.history.history import History
from callbacks.history.paths import PendingSave

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")


class CallbackList(Protocol):
    """The callbacks of a learner, as `registry.py` implements it.

    What it contains is a `Callback`, which `contract.py` defines on top of this file; here it is `Any`.
    """

    def __getattr__(self, name: str) -> Any:
        """The callback of that name."""

    def __getitem__(self, key: type[T], /) -> T:
        """The one callback of that class."""
        ...

    def __contains__(self, key: object, /) -> bool:
        """Is there a callback of that class or name, or this one?"""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The callbacks in the order in which they run."""
        ...

    def __len__(self) -> int:
        """Number of callbacks."""
        ...


class LearnerProtocol(Protocol):
    """What a hook may read and assign on the learner; everything else is internal to the loop."""

    # what is trained, and with what
    model: nn.Module
    data: Any
    loss_func: Callable[..., Any] | None
    optimizer: torch.optim.Optimizer
    # the current batch: assign to change what the loop does with it
    batch: Any  #: as the data returned it, after `place`
    inputs: Any  #: the model's arguments: a tuple (by position) or a mapping (by keyword)
    targets: Any  #: a single target, or a tuple of several, or None
    preds: Any  #: the model's output
    loss_is_overridden: bool  #: does a callback or a subclass override `compute_loss`?
    loss_grad: Any  #: the scalar tensor that is differentiated; scale this one, not `loss`
    # the clock
    training: bool  #: True in the training pass, False in validation and prediction
    epoch: int  #: index of the epoch in this fit, from 0
    n_epochs: int  #: epochs that this fit was asked for
    is_aside: bool  #: is this pass outside the fit, such as `learn.validate()` in a callback?
    batch_idx: int  #: index of the batch in this pass, from 0
    n_batches: int | None  #: batches in this pass, None if the data have no length
    global_step: int  #: weight updates so far, over all fits
    n_samples: int  #: training items that contributed to an update so far, over all fits
    n_waiting: int  #: training items whose gradients wait for an update; assign 0 if you clear them
    # results
    results: dict[str, Any]  #: this epoch's numbers by name, written in MEASURE
    history: History
    stop_reason: str | None  #: why `stop` was called; None if it was not
    interrupted: str | None  #: the signal that asks the fit to end; `stop_reason` after this batch
    error: BaseException | None  #: the error that ended the fit
    ranks: Any  #: the processes that train together, a `Ranks`
    # files
    resumed: bool  #: does this fit resume from a checkpoint? Known from `before_fit` on
    #: assign True in `before_fit` to save within a pass: the loop then records what a pass draws from
    marks_passes: bool

    @property
    def state(self) -> tuple[str, ...]:
        """The attributes to save, which a subclass of the learner declares."""
        ...

    @property
    def callbacks(self) -> CallbackList:
        """The callbacks in the order in which they run."""
        ...

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics, as they were passed."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter."""
        ...

    @property
    def loss(self) -> Any:
        """The detached value of the loss function, for reporting; to change training, assign `loss_grad`."""

    @property
    def loss_value(self) -> Any:
        """`loss` as a number if reading it does not wait for a device (on a CPU), otherwise the tensor."""

    def report_loss(self, loss: Any) -> None:
        """Report another loss for this batch, such as that of all processes."""

    @property
    def pass_name(self) -> str:
        """`"train"`, or in validation `"valid"` or the name of the data in `Data(valid={...})`."""
        ...

    @property
    def failed_between_batches(self) -> bool:
        """Was the fit's error raised while a batch was fetched, so that the batch before it is complete?"""
        ...

    @property
    def is_last_batch(self) -> bool:
        """Is it certain that no batch follows in this pass? False if only the loader's own `len` says so."""
        ...

    @property
    def n_items(self) -> int:
        """Items in this batch: what `Data(n_items=...)` returns, otherwise the length of the targets."""
        ...

    @property
    def measured(self) -> dict[str, Direction | None]:
        """The names that `results` will contain, each with the direction in which it is better, if known."""
        ...

    def forward(self) -> None:
        """The learner's own operation, for a callback that overrides it: set `preds`."""

    def compute_loss(self) -> None:
        """The learner's own operation: set `loss_grad`."""

    def backward(self) -> None:
        """The learner's own operation: add the gradients of `loss_grad` to the existing ones."""

    def step(self) -> None:
        """The learner's own operation: update the weights."""

    def stop(self, reason: str, *, alike: bool = False) -> None:
        """End the fit after the current batch or epoch; the enclosing spans fire their `after_` events."""

    def update(self) -> None:
        """Update the weights with the current gradients, with all events of a step."""

    def again(self) -> Tensor:
        """Compute the gradients of this batch again, with the current weights; returns the loss."""
        ...

    def add_callbacks(self, *callbacks: Any) -> None:
        """Add callbacks, instances or classes; during a fit, their `before_fit` is called at once."""

    def remove_callbacks(self, *callbacks: Any) -> None:
        """Remove callbacks, by instance, class or name; in a fit, their `cleanup_fit` is called at once."""

    def snapshot(self) -> dict[str, Any]:
        """Copy weights, buffers, optimizer, state of the callbacks, random state, counters and history."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot; it stays usable."""

    def save(
        self,
        path: str | Path,
        *,
        at: Literal["batch", "epoch", "end", "before"] | None = None,
        without: Iterable[str] = (),
    ) -> Path:
        """Write a checkpoint; `at` is the position in the fit; parameters in `without` are left out."""
        ...

    def async_save(
        self,
        path: str | Path,
        *,
        at: Literal["batch", "epoch", "end", "before"] | None = None,
        without: Iterable[str] = (),
        then: Callable[[], None] | None = None,
    ) -> PendingSave:
        """Like `save`, but a thread writes the file; in the first process it then calls `then`."""
        ...

    def save_step(self, path: str | Path, begin: dict[str, Any]) -> Path:
        """Write the training step in which an error was raised, from `cleanup_fit`."""
        ...

    def sandbox(self) -> AbstractContextManager[Any]:
        """Leave no trace: restore everything that a snapshot holds at the end of the block."""
        ...

    def validate(self, loader: Any = None, *, name: str = "valid", together: bool = False) -> dict[str, Any]:
        """Evaluate a loader, by default the validation data; weights, counters and results do not change."""
        ...

    def predict(self, inputs: Any) -> Tensor | Any:
        """The model's output for a batch of inputs, on the CPU, in evaluation mode."""
        ...
