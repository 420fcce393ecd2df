"""The loop. Read it downwards: fit, epoch, train and validate, batch, update; then the operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
)
from callbacks.core.history import History
from callbacks.results.numbers import Results, results_of, set_results
from learner.checks import preflight
from learner.data import items
from learner.data.data import Data
from learner.engine import again, errors, interrupt
from learner.passes import passes
from learner.state import snapshots
from learner.state.pass_modes import (
    enter_mode,
    leave_in_evaluation_mode,
    modes_of,
    resume_training_modes,
    set_modes,
)
from learner.state.position import Place, Span

# What a pass over data changes, and a pass beside a fit puts back.
PASS_STATE = (
    *("batch", "inputs", "targets", "preds", "loss_grad", "_loss", "_detached", "_value"),
    *("training", "batch_idx", "n_batches", "length_is_certain", "_results", "stop_reason"),
    *("_mark", "_resume", "_at"),
)

if TYPE_CHECKING:
    from learner.resume.resumption import Resumption


class Loop:
    """Says where it is, and lets plug-ins do the rest; `Learner` is what users make.

    What hooks may read and assign is told in `callbacks.LearnerProtocol`.
    """

    model: nn.Module
    data: Data
    loss_func: Callable[..., Any] | None
    optimizer: torch.optim.Optimizer
    batch: Any = None
    inputs: Any = None
    targets: Any = None
    preds: Any = None
    loss_grad: Any = None
    _loss: Any = None  # what compute_loss gave
    _detached: Any = None  # the same without its graph, once somebody asks
    _value: Any = None  # the same as a number, once somebody asks
    training = False
    epoch = n_epochs = batch_idx = 0
    n_batches: int | None = None
    length_is_certain = True
    global_step = n_samples = n_waiting = 0
    results = property(results_of, set_results)
    _results: Results
    history: History
    stop_reason: str | None = None
    error: BaseException | None = None
    fitting = abortable = False  # abortable: whether a second Ctrl-C may raise here
    interrupted: str | None = None
    n_fits = n_epochs_before = 0  # fits that have come to their end, and their epochs
    _known: passes.Known  # of the data, from the passes over it
    told: set[int | str]  # loaders and attributes of whose limits the user knows
    groups_begun: list[dict[str, Any]] | None = None  # the optimizer's, when the fit began; for checkpoints
    hidden_begun: dict[str, Any] | None = None  # marks of tensors that no checkpoint keeps
    given: set[str] | None = None  # names of the callbacks that were there when the fit was called
    resumed = marks_passes = False
    _mark: dict[str, Any] | None = None  # what the pass under way draws from, taken at its beginning
    _resume: Resumption | None = None  # where a checkpoint was, until the fit has gone on there
    _on: dict[str, Callable[[Any], Any]]  # all who listen to an event, as one callable
    _do: dict[str, Callable[[Any], Any]]  # who does an operation
    _at: Place  # where the loop is
    _begun: list[Any]  # callbacks whose part in the fit has started, and which must clean up

    def _fit(self, n_epochs: int, resume: Resumption | None = None) -> None:
        self.n_epochs, self.epoch, self.stop_reason, self.error = n_epochs, 0, None, None
        self._resume, self.resumed = resume, resume is not None
        self._at, self._begun = Place(), []
        was_left = resume_training_modes(self.model)
        modes = modes_of(self)
        self.fitting = True
        try:
            preflight.check_before_fit(self)
            self._drop_gradients()  # what a cancelled fit has left
            self._epochs()
            self.n_fits += not self.interrupted
        except BaseException as error:
            self.error = errors.with_place(error, self)
            if self.error is error:
                raise
            raise self.error from error
        finally:
            self.abortable = False
            errors.end(self, modes)
            if was_left or not (self.error or self.interrupted):
                leave_in_evaluation_mode(self.model)

    def _epochs(self) -> None:
        try:
            self._on["before_fit"](self)
            first = self._resume.begin(self) if self._resume else 0
            for self.epoch in range(first, first if self.stop_reason else self.n_epochs):
                self._epoch()
                if self.stop_reason:
                    break
        except CancelFit:
            pass
        self._at = Place()
        self._on["after_fit"](self)

    def _epoch(self) -> None:
        self.results = {}
        try:
            self._on["before_epoch"](self)
            if not (self.stop_reason or (self._resume and self._resume.in_validation)):
                self._train()
            if self.data.valid is not None and not self.stop_reason:
                self._validate(self.data.valid)
        except CancelEpoch:
            interrupt.end_span(self)
        self._at = Place()
        self._on["after_epoch"](self)

    def _train(self) -> None:
        self._begin_pass(self.data.train, training=True)
        try:
            self._on["before_train"](self)
            self._batches(self.data.train)
        except CancelTrain:
            self._at = Place("train")
            if self.data.valid is None:
                interrupt.end_span(self)
        self._on["after_train"](self)

    @torch.no_grad()
    def _validate(self, loader: Any) -> None:
        modes = modes_of(self)
        self._begin_pass(loader, training=False)
        try:
            try:
                self._on["before_validate"](self)
                if self._resume:
                    self._resume.rewind(loader)
                with snapshots.undrawn(loader):  # validating must not change what training draws
                    self._batches(loader)
            except CancelValidate:
                self._at = Place("validate")
                interrupt.end_span(self)
            self._on["after_validate"](self)
        finally:  # also where the epoch is cancelled
            set_modes(modes)  # each module's own: a frozen layer stays in evaluation mode

    def _begin_pass(self, loader: Any, training: bool, span: Span | None = None) -> None:
        self._at = Place(span or ("train" if training else "validate"))
        self.training, self.batch, self.batch_idx = training, None, 0
        self.n_batches, self.length_is_certain = passes.length_of(self, loader)
        enter_mode(self, training=training)

    def _batches(self, loader: Any) -> None:
        if self.stop_reason:
            return
        n_seen = n_done = 0
        try:
            n_seen, batches = passes.begin(self, loader)
            if self.stop_reason:  # it was stopped in the batch after which it was saved
                return
            n_done = n_seen
            for n_seen, self.batch in enumerate(batches, start=n_seen + 1):
                self.batch_idx = n_seen - 1
                self._batch()
                if self.stop_reason:
                    return
                n_done = n_seen
        except BaseException:
            self._at.came_through_batches(n_seen, n_done)
            raise
        self.n_batches = n_seen  # gone through to the end, the data has told

    def _batch(self) -> None:
        if self.model.training is not self.training:  # a plug-in left it so
            self.model.train(self.training)
        try:
            self._run_model()
            self._do["compute_loss"](self)
            self._loss, self._detached, self._value = self.loss_grad, None, None
            self._on["after_loss"](self)
            if self.training:
                self._update()
        except CancelBatch:
            if self.training:
                self._drop_gradients()
            interrupt.end_cancelled_batch(self)
            return
        if self.interrupted:
            interrupt.end_batch(self)  # only here: a checkpoint of this batch must know
        self._on["after_batch"](self)

    def _run_model(self) -> None:
        self._do["place"](self)
        self.inputs, self.targets = self.data.split(self.batch)
        self._on["before_batch"](self)
        self._do["forward"](self)
        self._on["after_pred"](self)

    def _update(self) -> None:
        self._on["before_backward"](self)
        try:
            self._do["backward"](self)
            self._on["after_backward"](self)
            self.n_waiting += self.n_items
            self.update()
        except (CancelTrain, CancelEpoch):  # its gradients are not to add to those of the next pass
            self._drop_gradients()
            raise

    def update(self) -> None:
        """Update the weights with the gradients that are there, with all events of a step."""
        try:
            self._on["before_step"](self)
            self._do["step"](self)
        except CancelStep:
            self.n_waiting *= items.have_gradients(self.optimizer)  # else they were dropped
            return
        self.global_step += 1
        self.n_samples, self.n_waiting = self.n_samples + self.n_waiting, 0
        self._on["after_step"](self)
        self._do["zero_grad"](self)

    def _drop_gradients(self) -> None:
        self._do["zero_grad"](self)
        self.n_waiting = 0

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Do something in evaluation mode beside the fit, or without one; the loop's state is put back."""
        kept = {name: getattr(self, name) for name in PASS_STATE}
        modes = modes_of(self)
        self.results, self.stop_reason, self._resume = {}, None, None
        self._begin_pass((), training=False, span="predict")
        try:
            yield
        except BaseException as error:
            placed = errors.with_place(error, self)
            if not self.fitting:  # else a plug-in may catch it, and the fit end well
                self.error = placed
            if placed is error:
                raise
            raise placed from error
        finally:
            stopped = self.stop_reason if self.fitting else None
            vars(self).update(kept)
            self.stop_reason = self.stop_reason or stopped
            set_modes(modes)

    # The operations: a subclass or one plug-in may take them over. Only plug-ins do `place` and `zero_grad`.

    def forward(self) -> None:
        """Set `preds`: the model's output for `inputs`."""
        if type(self.inputs) is tuple:
            self.preds = self.model(*self.inputs)
        elif isinstance(self.inputs, Mapping):
            self.preds = self.model(**self.inputs)
        else:  # a plug-in has assigned the one argument as it is
            self.preds = self.model(self.inputs)

    def compute_loss(self) -> None:
        """Set `loss_grad`: the loss of `preds` against `targets`, or the output's own `.loss`."""
        if self.loss_func is None:
            self.loss_grad = self.preds.loss
        elif type(self.targets) is tuple:
            self.loss_grad = self.loss_func(self.preds, *self.targets)
        else:
            self.loss_grad = self.loss_func(self.preds, self.targets)

    def backward(self) -> None:
        """Compute the gradients of `loss_grad`; they are added to the existing ones."""
        self.loss_grad.backward()

    def step(self) -> None:
        """Update the weights."""
        self.optimizer.step()

    # What hooks may ask

    def stop(self, reason: str) -> None:
        """End politely: this span tells all its listeners, nothing new is begun, outer spans close.

        Args:
            reason: why, in words; kept as `stop_reason`. The first one counts.
        """
        if not isinstance(reason, str) or not reason:
            raise TypeError(f"stop({reason!r}): say why in words, as in learn.stop('loss below 0.1').")
        self.stop_reason = self.stop_reason or reason

    def again(self) -> Tensor:
        """Compute the gradients of this batch anew, at the weights as they are; gives the loss."""
        return again.again(self)

    @property
    def loss(self) -> Any:
        """The loss as the loss function gave it, detached: the one to report."""
        if self._detached is None and self._loss is not None:
            self._detached = self._loss.detach() if isinstance(self._loss, Tensor) else self._loss
        return self._detached

    @loss.setter
    def loss(self, value: Any) -> None:
        raise AttributeError(
            "learn.loss is what the loss function gave; to change training, assign learn.loss_grad instead."
        )

    @property
    def loss_value(self) -> Any:
        """`loss` as a number where that waits for nothing, on a CPU; elsewhere as it is."""
        if self._value is None:
            loss = self._loss
            self._value = loss.item() if isinstance(loss, Tensor) and loss.is_cpu else self.loss
        return self._value

    n_items = property(items.of_batch, doc="Number of items in this batch; see `Data(n_items=...)`.")

    @property
    def is_last_batch(self) -> bool:
        """Is it certain that no batch follows in this pass?"""
        return self.batch_idx + 1 == self.n_batches and self.length_is_certain

    @property
    def failed_between_batches(self) -> bool:
        """Did the fit's error come up while a batch was fetched, so that the one before it is whole?"""
        return self.error is not None and self.batch is not None and self._at.fetching is not None

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        return next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
