"""The contract between the loop and its plug-ins: events, operations, endings, phases.

Read this file first. An *event* is a moment: any number of plug-ins may listen to it. An *operation* is work
that exactly one party does. `registry.py` puts plug-ins in order; `learner/loop.py` fires the events.
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
    """The phase in which a plug-in hears an event; within a phase, the order in which plug-ins were given."""

    PREPARE = 1  #: put things where they belong: place on the device, wrap the model
    TRANSFORM = 2  #: change the batch
    GRADIENT = 3  #: change the gradient
    MEASURE = 4  #: compute numbers; `learn.results` is written here
    REPORT = 5  #: show and keep numbers; `learn.results` is read from here on
    DECIDE = 6  #: stop, or change course
    SAVE = 7  #: write to disk what all others have made final


class LearnerWarning(UserWarning):
    """What this project warns with: something that is allowed and probably not meant."""


class Cancel(Exception):
    """Base of the exceptions with which a callback ends a span of the loop; raise one of the six below."""

    raised_by: tuple[Callback, str] | None = None  #: the callback and its hook, set by the loop


class CancelFit(Cancel):
    """End the fit now; `after_fit` still fires."""


class CancelEpoch(Cancel):
    """End this epoch now; `after_epoch` still fires, and the next epoch begins."""


class CancelTrain(Cancel):
    """End this training pass now; `after_train` still fires, and validation begins."""


class CancelValidate(Cancel):
    """End this validation pass now; `after_validate` still fires."""


class CancelBatch(Cancel):
    """Void this batch: it did not happen, `after_batch` does not fire, and gradients it made are zeroed."""


class CancelStep(Cancel):
    """Void this update: no step, no `after_step`, no zeroing. Gradients add up; `after_batch` still fires."""


class LearnerProtocol(Protocol):
    """What a hook may read and assign on the learner that it is passed; everything else is the loop's own."""

    # what is trained, and with what
    model: nn.Module
    data: Any
    loss_func: Callable[..., Any] | None
    optimizer: torch.optim.Optimizer
    # the batch under way: assign to change what the loop does with it
    batch: Any  #: as the data gave it, after `place`
    inputs: Any  #: the model's arguments: a tuple (by position) or a mapping (by keyword)
    targets: Any  #: one target as it is, several as a tuple, None where there is none
    preds: Any  #: the model's output
    loss_is_overridden: bool  #: does a callback or a subclass override the computation of the loss?
    loss_grad: Any  #: scalar tensor that is differentiated; scale this one, not `loss`
    # the one clock
    training: bool  #: True in the training pass, False in validation and prediction
    epoch: int  #: index of the epoch in this fit, from 0
    n_epochs: int  #: epochs that this fit was asked for
    batch_idx: int  #: index of the batch in this pass, from 0
    n_batches: int | None  #: batches in this pass, None where the data cannot tell
    global_step: int  #: weight updates so far, over all fits
    n_samples: int  #: training items that contributed to an update so far, over all fits
    n_waiting: int  #: training items whose gradients wait for an update; assign 0 where you drop them
    # what was found
    results: dict[str, Any]  #: this epoch's numbers by name, written in MEASURE
    history: History
    stop_reason: str | None  #: why `stop` was called, in words; None while nobody has
    interrupted: str | None  #: which signal asks for an end, in words; after this batch it is `stop_reason`
    error: BaseException | None  #: what ended the fit, where it ended in an error
    # files
    state: tuple[str, ...]  #: attributes that a subclass of the learner declares, to be kept
    resumed: bool  #: does this fit go on from a checkpoint? Known from `before_fit` on
    #: assign True in `before_fit` to save in mid-pass: what a pass draws from is then kept
    marks_passes: bool

    @property
    def callbacks(self) -> Callbacks:
        """The plug-ins in the order in which they are heard."""
        ...

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics that are measured, as they were given."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        ...

    @property
    def loss(self) -> Any:
        """The loss as the loss function gave it, detached: to report; `loss_grad` changes training."""
        ...

    @property
    def loss_value(self) -> Any:
        """`loss` as a number where that waits for nothing, on a CPU; elsewhere as it is."""
        ...

    @property
    def failed_between_batches(self) -> bool:
        """Did the fit's error come up while a batch was fetched, so that the one before it is whole?"""
        ...

    @property
    def is_last_batch(self) -> bool:
        """Is it certain that no batch follows in this pass? False too where a loader's length is unproven."""
        ...

    @property
    def n_items(self) -> int:
        """Number of items in this batch: what `Data(n_items=...)` gives, else the length of the targets."""
        ...

    @property
    def measured(self) -> dict[str, Direction | None]:
        """Names that will stand in `results`, each with the direction in which it is better, where known."""
        ...

    def stop(self, reason: str) -> None:
        """End politely: this span tells all its listeners, nothing new is begun, outer spans close."""
        ...

    def update(self) -> None:
        """Update the weights with the gradients that are there, with all events of a step."""
        ...

    def again(self) -> Tensor:
        """Compute the gradients of this batch anew, at the weights as they are; gives the loss."""
        ...

    def add_callbacks(self, *callbacks: Callback) -> None:
        """Add plug-ins; in the middle of a fit their `before_fit` is called at once."""
        ...

    def remove_callbacks(self, *callbacks: Callback | type[Callback] | str) -> None:
        """Remove plug-ins; in the middle of a fit their `cleanup_fit` is called at once."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Copy weights, buffers, optimizer, plug-in state, random state, clock and history."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put a snapshot back; it stays usable."""
        ...

    def save(self, path: str | Path, *, at: Literal["batch", "epoch", "end"] | None = None) -> Path:
        """Write all that a checkpoint holds; `at` says where the fit is, to go on from there."""
        ...

    def save_step(self, path: str | Path, begin: dict[str, Any]) -> Path:
        """Write the training step in which an error came up, from `cleanup_fit`."""
        ...

    def sandbox(self) -> AbstractContextManager[Any]:
        """Leave no trace: everything that a snapshot holds is put back at the block's end."""
        ...

    def validate(self, loader: Any = None) -> dict[str, Any]:
        """Measure on a loader, by default the validation data, without touching weights, clock or results."""
        ...

    def predict(self, inputs: Any) -> Tensor | Any:
        """The model's output for a batch of inputs, on the CPU, in evaluation mode."""
        ...


class Callback:
    """A plug-in: define a method named after an event to listen to it, or after an operation to do it.

    Hooks take the learner and nothing else: `def after_batch(self, learn): ...`. The learner is passed,
    never kept. What a callback changes on the learner it restores in `cleanup_fit`. A misspelt event, a hook
    with other arguments or an `async` one is refused when the class is defined.

    Attributes:
        order: the phase in which this plug-in is heard.
        name: how it is reached, `learn.callbacks.<name>`; by default the class's name in snake case.
        state: names of the attributes that snapshots and checkpoints keep, e.g. `("best", "wait")`. Modules,
            optimizers, schedulers, and lists or dicts of them keep their own state, which is loaded into the
            existing object. Modules are placed on the device with the model.
        measures: names that this plug-in writes to `learn.results`, each with its better direction
            ("min", "max", or None where there is none), so that a monitor of one can be checked before the
            first epoch.
        needs: classes of plug-ins without which this one cannot work.
        surrounds: operations that are done within the context that `surround` gives, whoever does them.
        reads_gradients: may its hooks read gradients? False lets a compiled step (`WholeStep`) keep none.
        distributed: does it synchronize several processes that train together? A fit in one of several is
            refused where no callback does.
        wrapped: the callback that this one holds and passes its events to, as `When` does; it is found by
            its own class then.
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
        """Before anything of a fit: check what was given, begin state."""

    def before_epoch(self, learn: LearnerProtocol) -> None:
        """Before an epoch's training pass; `learn.results` is new and empty."""

    def before_train(self, learn: LearnerProtocol) -> None:
        """Before the first training batch of an epoch; the model is in training mode."""

    def before_batch(self, learn: LearnerProtocol) -> None:
        """Before the model sees a batch; it is placed and split: change `learn.inputs`, `learn.targets`."""

    def after_pred(self, learn: LearnerProtocol) -> None:
        """After the forward pass: read or change `learn.preds`."""

    def after_loss(self, learn: LearnerProtocol) -> None:
        """After the loss: read `learn.loss`, add a penalty to `learn.loss_grad`."""

    def before_backward(self, learn: LearnerProtocol) -> None:
        """Before gradients are computed, in training only: scale `learn.loss_grad`."""

    def after_backward(self, learn: LearnerProtocol) -> None:
        """After gradients are computed: read or change `parameter.grad`."""

    def before_step(self, learn: LearnerProtocol) -> None:
        """Before the update: clip gradients, set rates, or raise `CancelStep` to let gradients add up."""

    def after_step(self, learn: LearnerProtocol) -> None:
        """After the update, with the gradients still there; `learn.global_step` counts it already."""

    def after_batch(self, learn: LearnerProtocol) -> None:
        """After a batch, in training and validation (`learn.training` tells): count, show, stop."""

    def after_train(self, learn: LearnerProtocol) -> None:
        """After the last training batch: write the training pass's numbers to `learn.results`."""

    def before_validate(self, learn: LearnerProtocol) -> None:
        """Before the first validation batch; the model is in evaluation mode, gradients are off."""

    def after_validate(self, learn: LearnerProtocol) -> None:
        """After the last validation batch: write its numbers to `learn.results`."""

    def after_epoch(self, learn: LearnerProtocol) -> None:
        """After an epoch: `learn.results` is complete: log it, decide, save."""

    def after_fit(self, learn: LearnerProtocol) -> None:
        """After the last epoch, also after a stop or cancel, but not after an error."""

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        """After a fit that began for this callback, whatever happened, last first: close and restore."""

    def surround(self, learn: LearnerProtocol, operation: str) -> AbstractContextManager[Any]:
        """The context in which an operation that is named in `surrounds` is done, as `torch.autocast`."""
        return nullcontext()

    def listens_to(self, event: str) -> bool:
        """Does this plug-in define a method for this event?"""
        return getattr(type(self), event) is not getattr(Callback, event)

    def state_dict(self) -> dict[str, Any]:
        """The attributes named in `state` that exist by now, by name; not copied.

        For a module, an optimizer, a scheduler, or a list or dict of them it is their own state.
        """
        return values_of(self, self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; that of a module or optimizer into the existing object.

        Raises:
            ValueError: `state` holds a name that the callback does not declare.
        """
        put_values(self, self.state, state)

    def objects(self) -> dict[str, Any]:
        """The modules, optimizers and schedulers that are named in `state`, by name.

        A property with a setter stands for plain data, and is not read.
        """
        return objects_of(self, self.state)

    def __repr__(self) -> str:
        shown = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in self.state}
        settings = ", ".join(f"{key}={value!r}" for key, value in shown.items() if is_plain(value))
        return f"{type(self).__name__}({settings})"


def on(
    event: str, *, order: Order = Order.MEASURE, name: str | None = None
) -> Callable[[Callable[..., Any]], Callback]:
    """Make a plug-in of a function that takes the learner.

    >>> @on("after_epoch")
    ... def show_rate(learn):
    ...     print(learn.optimizer.param_groups[0]["lr"])
    >>> show_rate.name
    'show_rate'

    Args:
        event: the event to listen to, or the operation to do.
        order: the phase in which it is heard.
        name: how it is reached; by default the function's name.

    Raises:
        TypeError: there is no such event, or the function does not take exactly the learner.
    """

    def plug_in(function: Callable[..., Any]) -> Callback:
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
    return plug_in


def snake_case(name: str) -> str:
    """`EarlyStopping` to `early_stopping`, `LogRMSE` to `log_rmse`, `R2` to `r2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
