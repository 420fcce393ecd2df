"""The contract between the loop and its callbacks: events, operations, phases, and how a fit ends.

Read this file first. An *event* is a moment in the loop, and any number of callbacks may listen to it. An
*operation* is work that exactly one part does. `registry.py` orders the callbacks; `learner/loop.py` calls
them.
"""

# pyright: strict

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from callbacks.core.definition import check_class, check_event, check_hook, is_plain
from callbacks.model.declared import objects_of, put_values, values_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from callbacks.core.history import History
    from callbacks.core.registry import Callbacks

EVENTS = (
    "before_fit",
    "before_epoch",
    "before_train",
    "before_batch",
    "after_pred",
    "after_loss",
    "before_backward",
    "after_backward",
    "before_step",
    "after_step",
    "after_batch",
    "after_train",
    "before_validate",
    "after_validate",
    "after_epoch",
    "after_fit",
    "cleanup_fit",
)

OPERATIONS = ("place", "forward", "compute_loss", "backward", "step", "zero_grad")

Direction = Literal["min", "max"]


class Order(IntEnum):
    """The phase of a callback. Events call callbacks phase by phase, each in the order they were passed."""

    PREPARE = 1  #: set up: place on the device, wrap the model
    TRANSFORM = 2  #: change the batch
    GRADIENT = 3  #: change the gradient
    MEASURE = 4  #: compute numbers; `learn.results` is written here
    REPORT = 5  #: show and store numbers; `learn.results` is complete from here on
    DECIDE = 6  #: stop, or change settings such as the learning rate
    SAVE = 7  #: write to disk, after all other callbacks


class LearnerWarning(UserWarning):
    """The warning of this project: something is allowed, but probably not intended."""


class Cancel(Exception):
    """Base of the exceptions that end a part of the loop; raise one of the six below."""

    raised_by: tuple[Callback, str] | None = None  #: the callback and its hook, set by the loop


class CancelFit(Cancel):
    """End the fit now; `after_fit` still fires."""


class CancelEpoch(Cancel):
    """End this epoch now; `after_epoch` still fires, and the next epoch starts."""


class CancelTrain(Cancel):
    """End this training pass now; `after_train` still fires, and validation starts."""


class CancelValidate(Cancel):
    """End this validation pass now; `after_validate` still fires."""


class CancelBatch(Cancel):
    """Discard this batch: it does not count, `after_batch` does not fire, and its gradients are cleared."""


class CancelStep(Cancel):
    """Skip this update: no step, no `after_step`. Gradients stay and add up; `after_batch` still fires."""


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
    # files
    state: tuple[str, ...]  #: attributes to save, declared by a subclass of the learner
    resumed: bool  #: does this fit resume from a checkpoint? Known from `before_fit` on
    #: assign True in `before_fit` to save within a pass: the loop then records what a pass draws from
    marks_passes: bool

    @property
    def callbacks(self) -> Callbacks:
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
        ...

    @property
    def loss_value(self) -> Any:
        """`loss` as a number if reading it does not wait for a device (on a CPU), otherwise the tensor."""
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

    def stop(self, reason: str) -> None:
        """End the fit after the current batch or epoch; the enclosing spans fire their `after_` events."""
        ...

    def update(self) -> None:
        """Update the weights with the current gradients, with all events of a step."""
        ...

    def again(self) -> Tensor:
        """Compute the gradients of this batch again, with the current weights; returns the loss."""
        ...

    def add_callbacks(self, *callbacks: Callback) -> None:
        """Add callbacks; during a fit, their `before_fit` is called at once."""
        ...

    def remove_callbacks(self, *callbacks: Callback | type[Callback] | str) -> None:
        """Remove callbacks; during a fit, their `cleanup_fit` is called at once."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Copy weights, buffers, optimizer, state of the callbacks, random state, clock and history."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot; it stays usable."""
        ...

    def save(self, path: str | Path, *, at: Literal["batch", "epoch", "end"] | None = None) -> Path:
        """Write a checkpoint; `at` says where the fit is, to resume from there."""
        ...

    def save_step(self, path: str | Path, begin: dict[str, Any]) -> Path:
        """Write the training step in which an error was raised, from `cleanup_fit`."""
        ...

    def sandbox(self) -> AbstractContextManager[Any]:
        """Leave no trace: restore everything that a snapshot holds at the end of the block."""
        ...

    def validate(self, loader: Any = None) -> dict[str, Any]:
        """Measure on a loader, by default the validation data, without changing weights, clock or results."""
        ...

    def predict(self, inputs: Any) -> Tensor | Any:
        """The model's output for a batch of inputs, on the CPU, in evaluation mode."""
        ...


class Callback:
    """A callback: a method named after an event listens to it, one named after an operation overrides it.

    A hook takes the learner and nothing else: `def after_batch(self, learn): ...`. Do not store the learner.
    Restore in `cleanup_fit` what the callback changes on the learner. A misspelt event, a hook with other
    arguments and an `async` hook raise an error when the class is defined.

    Attributes:
        order: the phase in which this callback runs.
        name: its name in `learn.callbacks.<name>`; by default the class name in snake case.
        state: names of the attributes that snapshots and checkpoints save, e.g. `("best", "wait")`. Of
            modules, optimizers, schedulers, and lists or dicts of them, the state dict is saved and loaded
            into the existing object. Modules are placed on the device with the model.
        measures: names that this callback writes to `learn.results`, each with the direction in which it is
            better ("min", "max" or None), so that a monitor of it can be checked before the first epoch.
        needs: classes of callbacks that this one requires.
        surrounds: operations that run inside the context that `surround` returns.
        reads_gradients: may its hooks read gradients? If False, a compiled step (`WholeStep`) need not keep
            them.
        distributed: does it synchronize several processes that train together? If no callback does, a fit in
            one of several processes raises an error.
        wrapped: the callback that this one holds and passes its events to, as `When` does; it is then found
            by its own class.
    """

    order: ClassVar[Order] | Order = Order.MEASURE
    name: str = "callback"
    state: tuple[str, ...] = ()
    measures: Mapping[str, Direction | None] = {}
    needs: tuple[type[Callback], ...] = ()
    surrounds: tuple[str, ...] = ()
    reads_gradients: bool = True
    distributed: bool = False
    wrapped: Callback | None = None

    def __init__(self, *, name: str | None = None):
        if name is not None:
            self.name = name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = snake_case(cls.__name__)
        check_class(cls, Callback, EVENTS, OPERATIONS)

    def before_fit(self, learn: LearnerProtocol) -> None:
        """Before everything else in a fit: check the arguments, create state."""

    def before_epoch(self, learn: LearnerProtocol) -> None:
        """Before the training pass of an epoch; `learn.results` is empty."""

    def before_train(self, learn: LearnerProtocol) -> None:
        """Before the first training batch of an epoch; the model is in training mode."""

    def before_batch(self, learn: LearnerProtocol) -> None:
        """Before the forward pass; the batch is placed and split: change `learn.inputs`, `learn.targets`."""

    def after_pred(self, learn: LearnerProtocol) -> None:
        """After the forward pass: read or change `learn.preds`."""

    def after_loss(self, learn: LearnerProtocol) -> None:
        """After the loss: read `learn.loss`, add a penalty to `learn.loss_grad`."""

    def before_backward(self, learn: LearnerProtocol) -> None:
        """Before gradients are computed, in training only: scale `learn.loss_grad`."""

    def after_backward(self, learn: LearnerProtocol) -> None:
        """After gradients are computed: read or change `parameter.grad`."""

    def before_step(self, learn: LearnerProtocol) -> None:
        """Before the update: clip gradients, set rates, or raise `CancelStep` to accumulate gradients."""

    def after_step(self, learn: LearnerProtocol) -> None:
        """After the update; gradients still exist, and `learn.global_step` includes this update."""

    def after_batch(self, learn: LearnerProtocol) -> None:
        """After a batch of training (`learn.training` is True) or validation: count, show, stop."""

    def after_train(self, learn: LearnerProtocol) -> None:
        """After the last training batch: write the numbers of the training pass to `learn.results`."""

    def before_validate(self, learn: LearnerProtocol) -> None:
        """Before the first validation batch; the model is in evaluation mode, gradients are off."""

    def after_validate(self, learn: LearnerProtocol) -> None:
        """After the last validation batch: write the numbers of the pass to `learn.results`."""

    def after_epoch(self, learn: LearnerProtocol) -> None:
        """After an epoch; `learn.results` is complete: log it, decide, save."""

    def after_fit(self, learn: LearnerProtocol) -> None:
        """After the last epoch, a stop or a cancel, but not after an error."""

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        """After every fit that reached this callback's `before_fit`, in reverse order: close and restore."""

    def surround(self, learn: LearnerProtocol, operation: str) -> AbstractContextManager[Any]:
        """The context in which an operation named in `surrounds` runs, such as `torch.autocast`."""
        return nullcontext()

    def listens_to(self, event: str) -> bool:
        """Does this callback define a method for this event?"""
        return getattr(type(self), event) is not getattr(Callback, event)

    def state_dict(self) -> dict[str, Any]:
        """The attributes named in `state` that exist now, by name; not copied.

        For a module, an optimizer, a scheduler, or a list or dict of them, their state dict.
        """
        return values_of(self, self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; the state of a module or optimizer goes into the existing object.

        Raises:
            ValueError: `state` contains a name that the callback does not declare.
        """
        put_values(self, self.state, state)

    def objects(self) -> dict[str, Any]:
        """The modules, optimizers and schedulers named in `state`, by name.

        A property with a setter is plain data and is not read.
        """
        return objects_of(self, self.state)

    def __repr__(self) -> str:
        shown = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in self.state}
        settings = ", ".join(f"{key}={value!r}" for key, value in shown.items() if is_plain(value))
        return f"{type(self).__name__}({settings})"


def on(
    event: str, *, order: Order = Order.MEASURE, name: str | None = None
) -> Callable[[Callable[..., Any]], Callback]:
    """Make a callback from a function that takes the learner.

    >>> @on("after_epoch")
    ... def show_rate(learn):
    ...     print(learn.optimizer.param_groups[0]["lr"])
    >>> show_rate.name
    'show_rate'

    Args:
        event: the event to listen to, or the operation to override.
        order: the phase of the callback.
        name: the name of the callback; by default the function's name.

    Raises:
        TypeError: the event does not exist, or the function does not take exactly the learner.
    """

    def make_callback(function: Callable[..., Any]) -> Callback:
        def hook(self: Callback, learn: LearnerProtocol) -> Any:
            return function(learn)

        check_hook(function, event, owner="on")
        title = name or getattr(function, "__name__", event).replace("<lambda>", event)
        body = {
            event: hook,
            "order": order,
            "name": title,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
        }
        return type(title, (Callback,), body)()

    check_event(event, EVENTS + OPERATIONS)
    return make_callback


def snake_case(name: str) -> str:
    """`EarlyStopping` to `early_stopping`, `LogRMSE` to `log_rmse`, `R2` to `r2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
