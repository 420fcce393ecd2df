"""The contract between the loop and its callbacks: events, operations, phases, and how a fit ends.

Read this file first. An *event* is a moment in the loop, and any number of callbacks may listen to it. An
*operation* is a task with exactly one implementation. `learner_protocol.py` lists what hooks may use on the
learner, `registry.py` orders the callbacks, and `learner/loop.py` calls them.
"""

# pyright: strict

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from typing import Any, ClassVar, Self

from callbacks.core.definition import check_arguments, check_class, is_plain, snake_case
from callbacks.core.learner_protocol import LearnerProtocol as LearnerProtocol
from callbacks.core.settings import check_choices
from callbacks.history.direction import Direction as Direction
from callbacks.model.declared import objects_of, put_values, values_of

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


class Order(IntEnum):
    """The phase of a callback. An event runs phase by phase, and each phase in the order given."""

    PREPARE = 1  #: set up: move to the device, wrap the model
    TRANSFORM = 2  #: change the batch
    GRADIENT = 3  #: change the gradient
    MEASURE = 4  #: compute numbers; `learn.results` is written here
    REPORT = 5  #: show and store numbers; `learn.results` is complete from here on
    DECIDE = 6  #: stop, or change settings such as the learning rate
    SAVE = 7  #: write to disk, after all other callbacks


class LearnerWarning(UserWarning):
    """The warning of this project: something is allowed, but probably not intended."""


class Cancel(Exception):
    """Base of the exceptions that end a part of the loop; raise one of the six subclasses."""

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


class Callback:
    """A callback: a method named after an event listens to it, one named after an operation overrides it.

    A hook takes the learner and nothing else: `def after_batch(self, learn): ...`. Do not store the learner.
    Restore in `cleanup_fit` what the callback changes on the learner. A misspelt event, a hook with other
    arguments and an `async` hook raise an error when the class is defined.

    Attributes:
        order: the phase in which this callback runs.
        name: its name in `learn.callbacks.<name>`; by default the class name in snake case.
        state: names of the attributes that snapshots and checkpoints save, e.g. `("best", "wait")`. For
            modules, optimizers, schedulers, and lists or dicts of these, the state dict is saved, and is
            loaded into the existing object. Modules are moved to the device with the model.
        measures: names that it writes to `learn.results`, each with the direction in which it improves
            ("min", "max" or None), so that callbacks that monitor them can be checked before the first epoch.
        monitors: names in `learn.results` that decide what this callback does, e.g. `("valid_loss",)`.
        direction: in which direction the first of `monitors` improves; None if its metric decides that.
        needs: classes of callbacks that this one requires.
        surrounds: operations that run inside the context that `surround` returns.
        yields: operations that it leaves to another callback or a subclass of the learner that has them.
        sets_hyperparameters: names of the optimizer's settings that it changes, such as `("lr",)`; two that
            change the same one raise an error, unless one starts where the other ends.
        sets_from: when it starts changing them, such as `"5 epochs"`; None for the start of the fit.
        reads_gradients: can its hooks read gradients? Nothing asks for this at present.
        accumulates_gradients: does one update follow several batches, as with `GradientAccumulation`?
        averages_weights: does it average the weights, as `EMA` does? A model can have one average at a time.
        computes_gradients: does its `step` compute the gradients of the batch again, as that of `SAM`?
        scales_gradients: are gradients scaled between `backward` and `step`, as `MixedPrecision` scales them?
        restores_weights: does it replace the trained weights with others when the fit ends?
        saves_checkpoints: does it write the checkpoints from which a fit resumes, into its `folder`?
        writes_to: the attributes that hold the files and folders it writes to, of those that it has. A recipe
            places relative ones in the run's folder.
        acts_outside: does it write files or send numbers in another phase than `REPORT` and `SAVE`? Such
            effects cannot be undone, so trials such as `learn.cost()` leave it out.
        only_observes: would the weights be the same without it, as without `Timer`? `learn.lr_find` and
            `learn.to_script` leave it out, and a compiled step does not watch it. It is not inherited,
            because a subclass may do more: each class declares it for itself.
        shows_progress: does it display the progress of the fit? Others print messages only if one does.
        matches_loop: do the operations that it overrides compute what those of the loop compute?
        distributed: does it synchronize several processes? They raise an error if no callback does.
        decides_alike: do its hooks cancel at the same batch in all processes? If not, all agree first.
        silences: does it turn off `REPORT` callbacks in this process, as in all processes but the first?
        on_every_rank: does it run in all processes although its phase is `REPORT`? By default only the first.
        differs_by_rank: does its state differ between processes? It then needs `joined_state`, `clear_state`.
    """

    order: ClassVar[Order] | Order = Order.MEASURE
    name: str = "callback"
    state: tuple[str, ...] = ()
    measures: Mapping[str, Direction | None] = {}
    monitors: tuple[str, ...] = ()
    direction: Direction | None = None
    needs: tuple[type[Callback], ...] = ()
    surrounds: tuple[str, ...] = ()
    yields: tuple[str, ...] = ()
    sets_hyperparameters: tuple[str, ...] = ()
    sets_from: str | None = None
    reads_gradients: bool = True
    accumulates_gradients: bool = False
    averages_weights: bool = False
    computes_gradients: bool = False
    scales_gradients: bool = False
    restores_weights: bool = False
    saves_checkpoints: bool = False
    writes_to: tuple[str, ...] = ("path", "folder")
    acts_outside: bool = False
    only_observes: bool = False
    shows_progress: bool = False
    matches_loop: bool = False
    distributed: bool = False
    decides_alike: bool = False
    silences: bool = False
    on_every_rank: bool = False
    differs_by_rank: bool = False
    _called_when: Any = None  # the `When` it was passed in, which decides when it is called

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        check_arguments(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self, *, name: str | None = None):
        if name is not None:
            self.name = name

    __new__.__signature__ = inspect.signature(__init__)  # type: ignore[attr-defined]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = snake_case(cls.__name__)
        if "only_observes" not in vars(cls):
            cls.only_observes = False
        check_class(cls, Callback, EVENTS, OPERATIONS)
        if str(cls.__module__).startswith("callbacks.") and "__init__" in vars(cls):  # users check their own
            cls.__init__ = check_choices(cls.__init__)  # type: ignore[method-assign]

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

        For a module, an optimizer, a scheduler, a parameter, or a list or dict of them, their state.
        """
        return values_of(self, self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; a module, optimizer or parameter stays the same object.

        Raises:
            ValueError: `state` contains a name that the callback does not declare.
        """
        put_values(self, self.state, state)

    def objects(self) -> dict[str, Any]:
        """The modules, optimizers, schedulers and parameters named in `state`, by name.

        A property with a setter is plain data and is not read.
        """
        return objects_of(self, self.state)

    def __repr__(self) -> str:
        shown = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in self.state}
        settings = ", ".join(f"{key}={value!r}" for key, value in shown.items() if is_plain(value))
        return f"{type(self).__name__}({settings})"
