"""The `Learner`: it owns the parts of a run and has the methods that users call. The loop is in `loop.py`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from callbacks.core.contract import Callback, Direction
from callbacks.core.given import as_callbacks
from callbacks.core.output import print_line
from callbacks.core.registry import Callbacks
from callbacks.history.history import History
from learner.checks import preflight
from learner.checks.process_checks import check_processes
from learner.data.data import as_data
from learner.engine import again, groups
from learner.engine.composition import DEFAULT_CALLBACKS, as_list, found_in, metrics_of, with_defaults
from learner.engine.explain import explain, overview
from learner.engine.groups import Splitter
from learner.engine.interrupt import interruptible
from learner.engine.other_ranks import among_ranks
from learner.engine.subclass import check_subclass
from learner.examination import examination
from learner.examination.report import Report
from learner.inference import exporting, predictions
from learner.inference.get_preds import get_preds
from learner.look import showing, summary
from learner.loop import OPERATIONS, Loop, backward, compute_loss, forward, step
from learner.messages.arguments import (
    check_assigned,
    check_fit,
    check_groups_with,
    check_loss_func,
    check_model,
)
from learner.messages.keywords import suggest_keywords
from learner.messages.missing_attributes import with_hints
from learner.report import reporting
from learner.resume import best_weights, loading, resumption, saving
from learner.resume.resumption import Resume
from learner.scripts.to_script import to_script
from learner.state import copies, membership, optimizer_modes, snapshots
from learner.state.attributes import FitState
from learner.state.protocol import LoopProtocol
from learner.tools import batch_size, cost, lr_find, replay, schedule_plot, scheduled_fits

#: Where a callback is passed, its class can be passed instead.
CallbackOrClass = Callback | type[Callback]


@with_hints
class Learner(FitState):
    """Owns a model, data, a loss and an optimizer, and runs one loop in which callbacks do everything else.

    Args:
        model: any `nn.Module`, unchanged.
        data: a `Data`, a pair of loaders `(train, valid)`, or a pair of tensors, `(inputs, targets)`.
        loss_func: a function of `(preds, targets)` that returns a scalar; None if the model's output has a
            `.loss`. If it is an `nn.Module`, a `partial` that holds one or a method of one, the module's
            parameters and buffers are placed, trained, saved and restored with the model's, and the module is
            in evaluation mode during validation.
        optimizer: a function that takes parameters and returns an optimizer, such as
            `partial(torch.optim.SGD, lr=0.1)`, or an optimizer. A list of several is the same as
            `Optimizers(...)` of them.
        callbacks: instances or classes; they run in the order of their phases, then in the order given.
        metrics: functions of `(preds, targets)`, our `Metric`s, or torchmetrics objects; one or a list.
        defaults: callbacks that every learner has unless you replace them; `()` for none.
        splitter: a function that takes the model and returns its layer groups from input to output, as
            `lambda model: [model.body, model.head]`. `freeze` and learning rates per group use these groups.
        decay_norms: whether weight decay also applies to biases and to the weights of normalization layers.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says why and what to pass. Defining a
            subclass that overrides a private name of the learner also raises a TypeError.
    """

    #: A subclass lists its own attributes for snapshots and checkpoints here, such as ("critic", "n_seen").
    #: They may be modules, optimizers and schedulers.
    state: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_subclass(cls, Learner)

    optimizer_given: Any  #: the optimizer or the function that was passed
    run_folder: Path | None = None  #: the folder of the run that `open_run` opened

    @suggest_keywords
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss_func: Any = None,
        optimizer: Any = None,
        callbacks: Iterable[CallbackOrClass] | CallbackOrClass = (),
        metrics: Any = (),
        *,
        defaults: Iterable[CallbackOrClass] | CallbackOrClass = DEFAULT_CALLBACKS,
        splitter: Splitter | None = None,
        decay_norms: bool = True,
    ):
        self.model = check_model(model)
        self.data = as_data(data)
        self.loss_func = check_loss_func(loss_func)
        self.splitter, self.decay_norms = splitter, decay_norms
        self.optimizer_given = check_groups_with(optimizer, splitter, decay_norms)
        self.optimizer = groups.make_optimizer(self)
        self.history, self.reported, self.results = History(), set(), dict[str, Any]()
        self.loop: LoopProtocol = Loop()
        self.loop.connect(self, with_defaults(callbacks, metrics, defaults, type(self), OPERATIONS))

    @suggest_keywords
    def fit(
        self,
        n_epochs: int,
        callbacks: Iterable[CallbackOrClass] | CallbackOrClass = (),
        *,
        resume: Resume = "never",
        allow: Iterable[str] = (),
    ) -> History:
        """Train for `n_epochs` epochs.

        Args:
            n_epochs: the number of epochs; in a resumed fit, those that are already done count too.
            callbacks: callbacks for this fit only.
            resume: with `"auto"` the same script, started again, resumes from the newest file of its
                `Checkpoint`, or starts a new run if there is no file; with `"must"` a missing file is an
                error; with `"never"` an existing file is.
            allow: what may differ from the resumed run, such as `("batch_size",)`. The error that reports
                a difference says which name allows it.

        Returns:
            The history, which continues over several fits.

        Raises:
            TypeError, ValueError: an argument, or data, model or loss at the first batch, cannot be used; or
                the run to resume is missing, or differs from this one.
            FileExistsError: with `"never"`, the folder of a `Checkpoint` contains a run.
            CheckpointError: all files of the run to resume are damaged.
            RuntimeError: this is one of several processes, and no callback distributes the fit.
            KeyboardInterrupt: Ctrl-C was pressed; the batch was completed and everything cleaned up first.
        """
        check_fit(self, n_epochs)
        given = as_callbacks(as_list(callbacks, "callbacks"), "callbacks")
        check_processes(self, given)
        modes = optimizer_modes.switching(self)
        with interruptible(self), modes, self.added(*preflight.preflight(), *given), among_ranks(self):
            point = resumption.find(self, n_epochs, resume, allow)
            if point is not None and point.is_of_a_later_fit:
                self.n_fits += 1
            else:
                self.loop.fit(self, n_epochs, point)
        return self.history

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics of all callbacks that measure some, as they were passed."""
        return metrics_of(self.callbacks)

    @property
    def measured(self) -> dict[str, Direction | None]:
        """The names of the results, each with the direction in which it is better, or None if unknown."""
        return {name: better for each in self.callbacks for name, better in each.measures.items()}

    # Callbacks

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks in the order in which they run."""
        return self.loop.callbacks

    def add_callbacks(self, *callbacks: CallbackOrClass) -> None:
        """Add callbacks; during a fit, their `before_fit` is called at once.

        Raises:
            TypeError, ValueError: something is not a callback, or cannot be combined with the others.
        """
        membership.add(self, as_callbacks(callbacks, "callbacks"))

    def remove_callbacks(self, *callbacks: CallbackOrClass | str) -> None:
        """Remove callbacks; during a fit, their `cleanup_fit` is called at once.

        Args:
            callbacks: instances, names, or classes; a class stands for all callbacks of that class.

        Raises:
            KeyError: no callback has that name or class.
            ValueError: a callback that stays requires one that would be removed.
        """
        membership.remove(self, found_in(self.callbacks, callbacks))

    def added(self, *callbacks: CallbackOrClass) -> AbstractContextManager[Learner]:
        """Add callbacks within a `with` block; they are removed at its end."""
        return membership.added(self, callbacks)

    def without(self, *callbacks: CallbackOrClass | str) -> AbstractContextManager[Learner]:
        """Remove callbacks within a `with` block; at its end they are added again in their old places.

        They keep their state. During a fit, their `cleanup_fit` is called when they are removed, and their
        `before_fit` when they are added again. Arguments and errors are those of `remove_callbacks`.
        """
        return membership.without(self, found_in(self.callbacks, callbacks))

    # The operations: a subclass or one callback may override them

    forward = forward
    compute_loss = compute_loss
    backward = backward
    step = step

    # What hooks may call

    def update(self) -> None:
        """Update the weights with the current gradients, with all events of a step."""
        self.loop.update(self)

    def again(self) -> Tensor:
        """Recompute the gradients of this batch at the current weights, and return the loss."""
        return again.again(self)

    # Training with a schedule, layer groups, finding settings

    fit_one_cycle = scheduled_fits.fit_one_cycle
    fit_flat_cos = scheduled_fits.fit_flat_cos
    fit_sgdr = scheduled_fits.fit_sgdr
    fine_tune = scheduled_fits.fine_tune
    plot_schedule = schedule_plot.plot_schedule
    freeze_to = groups.freeze_to
    freeze = groups.freeze
    unfreeze = groups.unfreeze
    lr_find = lr_find.lr_find
    find_batch_size = batch_size.find_batch_size
    cost = cost.measure

    @property
    def layer_groups(self) -> groups.Groups:
        """The parameters per layer group, from input to output; one group if there is no `splitter`."""
        return groups.layer_groups(self.model, self.splitter)

    # Predictions, files, state

    validate = predictions.validate
    test = predictions.test
    predict = predictions.predict
    get_preds = get_preds
    export = exporting.export
    save = saving.save
    async_save = saving.async_save
    load = loading.load
    load_best = best_weights.load_best
    save_step = replay.write
    report = reporting.report
    show_batch = showing.show_batch
    show_results = showing.show_results
    summary = summary.summary
    to_script = to_script

    def snapshot(self) -> dict[str, Any]:
        """Copy the weights, buffers, optimizer, callbacks' states, random states, clock and history."""
        return snapshots.take(self)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot, which can be restored again later.

        Raises:
            ValueError: the snapshot is of another model, optimizer or list of callbacks. Nothing is changed.
        """
        snapshots.restore(self, snapshot)

    def sandbox(self) -> AbstractContextManager[Learner]:
        """Restore everything that a snapshot holds, and the gradients, at the end of a `with` block."""
        return snapshots.sandbox(self)

    def explain(self) -> None:
        """Print which callbacks run at each event and operation, in which order, and why."""
        print_line(explain(self))

    def __getstate__(self) -> dict[str, Any]:
        return copies.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        copies.put_state(self, state)

    def __repr__(self) -> str:
        names = [type(each).__name__ for each in (self.model, self.data, self.optimizer, *self.callbacks)]
        return f"{type(self).__name__}({', '.join(names[:3])}, callbacks=[{', '.join(names[3:])}])"

    def _repr_html_(self) -> str:
        return overview(self)

    def check(self) -> Report:
        """Check model, data, loss, optimizer and callbacks on one batch, in a sandbox; print the report."""
        check_assigned(self.optimizer)
        return examination.check(self)
