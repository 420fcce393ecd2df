"""The loop. Read it downwards: fit, epochs, epoch, train and validate, batch, update; then the operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import Any

import torch

from callbacks.core.contract import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
)
from learner.data.items import have_gradients
from learner.engine import composition, fits, interrupt
from learner.passes.passes import Known
from learner.state import snapshots, validations
from learner.state.moved_numbers import MovedNumbers
from learner.state.pass_modes import enter_mode, modes_of, set_modes
from learner.state.position import Place, Span
from learner.state.protocol import FullLearner, Start


class Loop:
    """Runs the fits of a learner and keeps track of their position. The learner is passed, never stored.

    Attributes:
        callbacks: in the order in which they run.
        on: for each event, one function of the learner that calls all hooks.
        do: for each operation, the function of the learner that runs it.
        place: the current pass, and the hook and operations that an error was raised in.
        started: the callbacks whose fit has started; each of them must clean up.
        start: where the fit resumes; None in a new fit and after the fit has resumed.
        known: what earlier passes have shown about the data.
        moved: the plain numbers of the model and the loss that training changes.
    """

    def __init__(self) -> None:
        self.place, self.started = Place(), list[Any]()
        self.start: Start | None = None
        self.known, self.moved = Known(), MovedNumbers()

    def connect(self, learn: FullLearner, callbacks: Iterable[Any]) -> None:
        """Determine what each event and operation calls, so that the loop looks nothing up per batch."""
        self.callbacks, self.on, self.do = composition.connected(callbacks, type(learn), OPERATIONS)
        learn.loss_is_overridden = not self.runs_default("compute_loss")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy holds: no functions of the original's callbacks, and no position in a fit."""
        return {**vars(self), "on": {}, "do": {}, "place": Place(), "started": [], "start": None}

    def runs_default(self, operation: str) -> bool:
        """Does an operation run the function below, or a callback that computes the same?"""
        function = unwrap(self.do[operation])  # without the wrappers of callbacks that surround it
        is_default = function is OPERATIONS.get(operation)
        return is_default or getattr(getattr(function, "__self__", None), "matches_loop", False)

    def fit(self, learn: FullLearner, n_epochs: int, start: Start | None = None) -> None:
        """Train for `n_epochs` epochs; `start` is where a resumed fit continues."""
        learn.n_epochs, learn.epoch, learn.stop_reason, learn.error = n_epochs, 0, None, None
        self.start, learn.resumed = start, start is not None
        self.place, self.started = Place(), []
        with fits.under_way(learn):
            self.drop_gradients(learn)  # a cancelled fit may have left some
            self.run_epochs(learn)
            learn.n_fits += not learn.interrupted

    def run_epochs(self, learn: FullLearner) -> None:
        try:
            self.on["before_fit"](learn)
            first = self.start.begin(learn) if self.start else 0
            for learn.epoch in range(first, first if learn.stop_reason else learn.n_epochs):
                self.run_epoch(learn)
                if learn.stop_reason:
                    break
        except CancelFit:
            pass
        self.place = Place()
        self.on["after_fit"](learn)

    def run_epoch(self, learn: FullLearner) -> None:
        learn.results = {}
        try:
            self.on["before_epoch"](learn)
            if not (learn.stop_reason or (self.start and self.start.in_validation)):
                self.train(learn)
            for name, loader in validations.left(learn, self.start):
                self.validate(learn, loader, name)
        except CancelEpoch:
            interrupt.end_span(learn)
        self.place = Place()
        self.on["after_epoch"](learn)

    def train(self, learn: FullLearner) -> None:
        self.begin_pass(learn, learn.data.train, training=True)
        try:
            self.on["before_train"](learn)
            self.run_batches(learn, learn.data.train)
        except CancelTrain:
            self.place = Place("train")
            if learn.data.valid is None:
                interrupt.end_span(learn)
        self.on["after_train"](learn)

    @torch.no_grad()
    def validate(self, learn: FullLearner, loader: Any, name: str = "valid") -> None:
        modes, learn.valid_name = modes_of(learn), name
        self.begin_pass(learn, loader, training=False)
        try:
            try:
                self.on["before_validate"](learn)
                if self.start:
                    self.start.rewind(loader)
                with snapshots.keep_random_states(loader):  # so that validation does not change training
                    self.run_batches(learn, loader)
            except CancelValidate:
                self.place = Place("validate")
                interrupt.end_span(learn)
            validations.end(learn, name, self.on["after_validate"])
        finally:  # even if the epoch is cancelled
            set_modes(modes)  # each module's own mode: a frozen layer stays in evaluation mode

    def begin_pass(self, learn: FullLearner, loader: Any, training: bool, span: Span | None = None) -> None:
        """Set the clock and the modes for a pass; `span` is its name in errors."""
        self.place = Place(span or ("train" if training else "validate"))
        learn.training, learn.batch, learn.batch_idx = training, None, 0
        learn.n_batches, learn.length_is_certain = self.known.length_of(loader, learn.pass_name)
        enter_mode(learn, training=training)

    def run_batches(self, learn: FullLearner, loader: Any) -> None:
        if learn.stop_reason:
            return
        n_seen = n_done = 0
        try:
            n_seen, batches = self.known.begin(learn, loader, self.start)
            if learn.stop_reason:  # the run was stopped in the batch after which the checkpoint was saved
                return
            n_done = n_seen
            for n_seen, learn.batch in enumerate(batches, start=n_seen + 1):
                learn.batch_idx = n_seen - 1
                self.run_batch(learn)
                if learn.stop_reason:
                    return
                n_done = n_seen
        except BaseException:
            self.place.note_batch_error(n_seen, n_done)
            raise
        learn.n_batches = n_seen  # the exact number is known after a whole pass

    def run_batch(self, learn: FullLearner) -> None:
        if learn.model.training is not learn.training:  # a callback has changed the mode
            learn.model.train(learn.training)
        try:
            self.run_model(learn)
            self.compute_loss(learn)
            if learn.training:
                self.run_backward(learn)
        except CancelBatch:
            if learn.training:
                self.drop_gradients(learn)
            interrupt.end_cancelled_batch(learn)
            return
        if learn.interrupted:
            interrupt.end_batch(learn)  # before `after_batch`, so that a checkpoint saved there is right
        self.on["after_batch"](learn)

    def run_model(self, learn: FullLearner) -> None:
        self.do["place"](learn)
        learn.inputs, learn.targets = learn.data.split(learn.batch)
        self.on["before_batch"](learn)
        self.do["forward"](learn)
        self.on["after_pred"](learn)

    def compute_loss(self, learn: FullLearner) -> None:
        self.do["compute_loss"](learn)
        self.note_loss(learn)
        self.on["after_loss"](learn)

    def note_loss(self, learn: FullLearner) -> None:
        """Keep what `compute_loss` returned as the loss to report."""
        learn._loss, learn._detached, learn._value = learn.loss_grad, None, None

    def run_backward(self, learn: FullLearner) -> None:
        self.on["before_backward"](learn)
        try:
            self.do["backward"](learn)
            self.on["after_backward"](learn)
            learn.n_waiting += learn.n_items
            learn.update()
        except (CancelTrain, CancelEpoch):  # the gradients must not be added to those of the next pass
            self.drop_gradients(learn)
            raise

    def update(self, learn: FullLearner) -> None:
        """Update the weights with the current gradients, with all events of a step."""
        try:
            self.on["before_step"](learn)
            self.do["step"](learn)
        except CancelStep:
            learn.n_waiting *= have_gradients(learn.optimizer)  # 0 if the gradients were dropped
            return
        learn.global_step += 1
        learn.n_samples, learn.n_waiting = learn.n_samples + learn.n_waiting, 0
        self.on["after_step"](learn)
        self.do["zero_grad"](learn)

    def drop_gradients(self, learn: FullLearner) -> None:
        self.do["zero_grad"](learn)
        learn.n_waiting = 0


# The operations are methods of every learner; only callbacks implement `place` and `zero_grad`.


def forward(learn: FullLearner) -> None:
    """Set `preds`: the model's output for `inputs`."""
    if type(learn.inputs) is tuple:
        learn.preds = learn.model(*learn.inputs)
    elif isinstance(learn.inputs, Mapping):
        learn.preds = learn.model(**learn.inputs)
    else:  # a callback has assigned a single input
        learn.preds = learn.model(learn.inputs)


def compute_loss(learn: FullLearner) -> None:
    """Set `loss_grad`: the loss of `preds` and `targets`, or the output's own `.loss`."""
    if learn.loss_func is None:
        learn.loss_grad = learn.preds.loss
    elif type(learn.targets) is tuple:
        learn.loss_grad = learn.loss_func(learn.preds, *learn.targets)
    else:
        learn.loss_grad = learn.loss_func(learn.preds, learn.targets)


def backward(learn: FullLearner) -> None:
    """Compute the gradients of `loss_grad` and add them to the existing ones."""
    learn.loss_grad.backward()


def step(learn: FullLearner) -> None:
    """Update the weights."""
    learn.optimizer.step()


OPERATIONS = {each.__name__: each for each in (forward, compute_loss, backward, step)}
