"""The loop. Read it downwards: fit, epoch, train and validate, batch, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from callbacks import (
    Callback,
    Callbacks,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    DevicePlacement,
    Direction,
    History,
    Metrics,
    Progress,
    Recorder,
    StopOnNaN,
    ZeroGrad,
)
from learner import checks, errors, inference, snapshots
from learner.arguments import as_optimizer, check_loss_func, check_model, check_n_epochs, suggest_keywords
from learner.composition import doers_of, with_defaults
from learner.data import Data, as_data, n_batches_of
from learner.explain import explain
from learner.interrupt import interruptible

#: The plug-ins of every learner that is not told otherwise; one of the same class that you pass takes its place.
DEFAULT_CALLBACKS = (ZeroGrad, DevicePlacement, StopOnNaN, Metrics, Recorder, Progress)

Plugin = Callback | type[Callback]

# What a pass over data changes, and a pass beside a fit puts back.
PASS_STATE = (
    *("batch", "inputs", "targets", "preds", "loss_grad", "_loss"),
    *("training", "batch_idx", "n_batches", "results", "stop_reason"),
)


class Learner:
    """Owns a model, data, a loss and an optimizer, and runs one loop in which plug-ins do everything else.

    Args:
        model: any `nn.Module`, unchanged.
        data: a `Data`, a pair of loaders `(train, valid)`, or a pair of tensors `(inputs, targets)`, which is one batch.
        loss_func: takes `(preds, targets)`, gives a scalar; not needed where the model's output has its own `.loss`.
        optimizer: what makes an optimizer of parameters, as `partial(torch.optim.SGD, lr=0.1)`, or a ready optimizer.
        callbacks: plug-ins, heard in the order of their phases, then in the order given.
        metrics: functions of `(preds, targets)`, our `Metric`s, or torchmetrics' objects.
        defaults: plug-ins that are there unasked; `()` for none.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says why and what to pass.
    """

    @suggest_keywords
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss_func: Any = None,
        optimizer: Any = None,
        callbacks: Iterable[Plugin] = (),
        metrics: Iterable[Any] = (),
        *,
        defaults: Iterable[Plugin] = DEFAULT_CALLBACKS,
    ):
        self.model = check_model(model)
        self.data: Data = as_data(data)
        self.loss_func = check_loss_func(loss_func)
        self.optimizer: torch.optim.Optimizer = as_optimizer(optimizer, model)
        self.history = History()
        self.results: dict[str, Any] = {}
        self.stop_reason: str | None = None
        self.error: BaseException | None = None
        self.fitting = False
        self.global_step = self.n_samples = 0
        self.epoch, self.n_epochs = 0, 0
        self.batch = self.inputs = self.targets = self.preds = self.loss_grad = self._loss = None
        self._begin_pass((), training=False)
        self._set_callbacks(with_defaults(callbacks, tuple(metrics), defaults, type(self), Learner))

    # The loop -----------------------------------------------------------------------------------------------------

    @suggest_keywords
    def fit(self, n_epochs: int, callbacks: Iterable[Plugin] = ()) -> History:
        """Train for `n_epochs` epochs; `callbacks` are there for this fit only.

        Returns:
            The history, continuous over several fits.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the batch was finished and everything cleaned up first.
        """
        check_n_epochs(n_epochs)
        with interruptible(self), self.added(checks.Preflight, *callbacks):
            self._fit(n_epochs)
        return self.history

    def _fit(self, n_epochs: int) -> None:
        self.n_epochs, self.epoch, self.stop_reason, self.error = n_epochs, 0, None, None
        modes = [(module, module.training) for module in self.model.modules()]
        self.fitting = True
        try:
            checks.check_before_fit(self)
            self._epochs()
        except BaseException as error:
            self.error = errors.with_place(error, self)
            raise
        finally:
            self.fitting = False
            self._end(modes)

    def _epochs(self) -> None:
        try:
            self._fire("before_fit")
            for self.epoch in range(self.n_epochs):
                if self.stop_reason:
                    break
                self._epoch()
        except CancelFit:
            pass
        self._fire("after_fit")

    def _epoch(self) -> None:
        self.results = {}
        try:
            self._fire("before_epoch")
            if not self.stop_reason:
                self._train()
            if self.data.valid is not None and not self.stop_reason:
                self._validate(self.data.valid)
        except CancelEpoch:
            pass
        self._fire("after_epoch")

    def _train(self) -> None:
        self._begin_pass(self.data.train, training=True)
        try:
            self._fire("before_train")
            self._batches(self.data.train)
        except CancelTrain:
            pass
        self._fire("after_train")

    @torch.no_grad()
    def _validate(self, loader: Any) -> None:
        self._begin_pass(loader, training=False)
        try:
            self._fire("before_validate")
            self._batches(loader)
        except CancelValidate:
            pass
        self._fire("after_validate")

    def _begin_pass(self, loader: Any, training: bool) -> None:
        self.training, self.batch_idx, self.n_batches = training, 0, n_batches_of(loader)
        if self.model.training is not training:
            self.model.train(training)

    def _batches(self, loader: Any) -> None:
        if self.stop_reason:
            return
        for self.batch_idx, self.batch in enumerate(self.data.batches(loader)):
            self._batch()
            if self.stop_reason:
                return

    def _batch(self) -> None:
        if self.model.training is not self.training:  # a plug-in left it so
            self.model.train(self.training)
        try:
            self._predict()
            self._do["compute_loss"](self)
            self._loss = self.loss_grad
            self._fire("after_loss")
            if self.training:
                self._update()
        except CancelBatch:
            if self.training:
                self._do["zero_grad"](self)
            return
        self._fire("after_batch")

    def _predict(self) -> None:
        self._do["place"](self)
        self.inputs, self.targets = self.data.split(self.batch)
        self._fire("before_batch")
        self._do["forward"](self)
        self._fire("after_pred")

    def _update(self) -> None:
        self._fire("before_backward")
        self._do["backward"](self)
        self._fire("after_backward")
        self.n_samples += self.n_items
        try:
            self._fire("before_step")
            self._do["step"](self)
        except CancelStep:
            return
        self.global_step += 1
        self._fire("after_step")
        self._do["zero_grad"](self)

    def _fire(self, event: str) -> None:
        for hook in self._hooks[event]:
            hook(self)

    # The operations: a subclass or one plug-in may take them over; `place` and `zero_grad` are done by plug-ins only --

    def forward(self) -> None:
        """Set `preds`: the model's output for `inputs`."""
        if type(self.inputs) is tuple:
            self.preds = self.model(*self.inputs)
        else:
            self.preds = self.model(**self.inputs)

    def compute_loss(self) -> None:
        """Set `loss_grad`: the loss of `preds` against `targets`, or the output's own `.loss`."""
        if self.loss_func is None:
            self.loss_grad = self.preds.loss
        elif type(self.targets) is tuple:
            self.loss_grad = self.loss_func(self.preds, *self.targets)
        else:
            self.loss_grad = self.loss_func(self.preds, self.targets)

    def backward(self) -> None:
        """Compute the gradients of `loss_grad`; they add to those that are there."""
        self.loss_grad.backward()

    def step(self) -> None:
        """Update the weights."""
        self.optimizer.step()

    # State that hooks see -------------------------------------------------------------------------------------------

    @property
    def loss(self) -> Any:
        """The loss as the loss function gave it, detached: the one to report."""
        return self._loss.detach() if isinstance(self._loss, Tensor) else self._loss

    @loss.setter
    def loss(self, value: Any) -> None:
        raise AttributeError(
            "learn.loss is what the loss function gave, to be reported; to change training, assign learn.loss_grad."
        )

    @property
    def n_items(self) -> int:
        """Number of items in this batch: the first dimension of its first tensor."""
        inputs = self.inputs
        first = inputs[0] if type(inputs) is tuple else inputs
        return (
            first.shape[0]
            if type(first) is Tensor and first.ndim
            else inference.n_items_of(inputs, self.targets)
        )

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        return next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics that are measured, as they were given."""
        return tuple(
            metric for plugin in self.callbacks if isinstance(plugin, Metrics) for metric in plugin.metrics
        )

    @property
    def measured(self) -> dict[str, Direction | None]:
        """Names that will stand in `results`, each with the direction in which it is better, where known."""
        return {name: better for plugin in self.callbacks for name, better in plugin.measures.items()}

    def stop(self, reason: str) -> None:
        """End politely: this span tells all its listeners, nothing new is begun, `after_` events of outer spans fire."""
        if not isinstance(reason, str) or not reason:
            raise TypeError(f"stop({reason!r}): say why in words, as in learn.stop('loss below 0.1').")
        self.stop_reason = self.stop_reason or reason

    # Plug-ins ---------------------------------------------------------------------------------------------------------

    @property
    def callbacks(self) -> Callbacks:
        """The plug-ins in the order in which they are heard."""
        return self._callbacks

    def add_callbacks(self, *callbacks: Plugin) -> None:
        """Add plug-ins; in the middle of a fit their `before_fit` is called at once."""
        before = set(self._callbacks)
        self._set_callbacks((*self._callbacks, *callbacks))
        if self.fitting:
            for plugin in self._callbacks:
                if plugin not in before:
                    plugin.before_fit(self)

    def remove_callbacks(self, *callbacks: Callback) -> None:
        """Remove plug-ins; in the middle of a fit their `cleanup_fit` is called at once."""
        self._set_callbacks(plugin for plugin in self._callbacks if plugin not in callbacks)
        if self.fitting:
            for plugin in reversed(callbacks):
                plugin.cleanup_fit(self)

    @contextmanager
    def added(self, *callbacks: Plugin) -> Iterator[Learner]:
        """Have these plug-ins as well, within the block."""
        before = set(self._callbacks)
        self.add_callbacks(*callbacks)
        new = [plugin for plugin in self._callbacks if plugin not in before]
        try:
            yield self
        finally:
            self.remove_callbacks(*(plugin for plugin in new if plugin in self._callbacks))

    def _set_callbacks(self, callbacks: Iterable[Plugin]) -> None:
        """Work out who listens to what and who does what, once: the loop then looks nothing up by class."""
        self._callbacks = Callbacks(callbacks)
        self._hooks = self._callbacks.hooks
        self._do = doers_of(self._callbacks, type(self), Learner)

    # Without training -------------------------------------------------------------------------------------------------

    def validate(self, loader: Any = None) -> dict[str, Any]:
        """Measure on a loader, by default the validation data, without touching weights, clock or results.

        Returns:
            The numbers by name, as `{"valid_loss": 0.3, "valid_accuracy": 0.9}`.
        """
        with self._aside():
            self._validate(inference.loader_or_valid(self.data, loader))
            return self.results

    def predict(self, inputs: Any) -> Any:
        """The model's output for a batch of inputs, in evaluation mode.

        Args:
            inputs: a tensor or NumPy array of shape (items, ...), a tuple of such for a model of several inputs, or a
                mapping for one that takes keywords.

        Returns:
            What the model gives, on the CPU, without gradients.
        """
        with self._aside(), torch.no_grad():
            self.batch = inference.as_batch(inputs, self.data)
            self._predict()
            return inference.to_cpu(self.preds)

    def get_preds(self, loader: Any = None) -> tuple[Any, Any]:
        """All predictions over a loader, by default the validation data, and the targets, each as one tensor on the CPU."""
        with self._aside(), torch.no_grad():
            loader = inference.loader_or_valid(self.data, loader)
            self._begin_pass(loader, training=False)
            return inference.collect(self._predict, self, self.data.batches(loader))

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Do something in evaluation mode beside the fit, or without one: clock, batch and results are put back."""
        kept = {name: getattr(self, name) for name in PASS_STATE}
        modes = [(module, module.training) for module in self.model.modules()]
        self.results, self.stop_reason = {}, None
        self._begin_pass((), training=False)
        try:
            yield
        except BaseException as error:
            self.error = errors.with_place(error, self)
            raise
        finally:
            stopped = self.stop_reason if self.fitting else None
            vars(self).update(kept)
            self.stop_reason = self.stop_reason or stopped
            self._end(modes)

    def _end(self, modes: list[tuple[nn.Module, bool]]) -> None:
        """Put the modules' modes back and, unless a fit goes on, let every plug-in clean up."""
        for module, mode in modes:
            module.training = mode
        if not self.fitting:
            errors.clean_up(self)

    def snapshot(self) -> dict[str, Any]:
        """Copy weights, buffers, optimizer, plug-in state, random state, clock and history."""
        return snapshots.take(self)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put a snapshot back; it stays usable.

        Raises:
            ValueError: it is of another model, optimizer or composition; nothing has been changed then.
        """
        snapshots.put_back(self, snapshot)

    @contextmanager
    def sandbox(self) -> Iterator[Learner]:
        """Leave no trace: everything that a snapshot holds, gradients too, is put back at the block's end."""
        with snapshots.sandbox(self):
            yield self

    def explain(self) -> None:
        """Print the composed loop: for each event and operation, who is called, in which order, and why there."""
        print(explain(self))

    def check(self) -> checks.Report:
        """Examine model, data, loss, optimizer and plug-ins on one batch, in a sandbox, and print what was found."""
        return checks.check(self)
