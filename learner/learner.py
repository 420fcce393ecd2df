"""The learner: what is trained and with what, what users call. The loop itself is in `loop.py`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from callbacks.core.contract import Callback, Direction
from callbacks.core.given import as_callbacks
from callbacks.core.registry import Callbacks
from callbacks.history.history import History
from learner.checks import preflight
from learner.checks.processes import check_processes
from learner.data.data import as_data
from learner.engine import again, groups
from learner.engine.composition import DEFAULT_CALLBACKS, as_list, found_in, metrics_of, with_defaults
from learner.engine.explain import explain
from learner.engine.groups import Splitter
from learner.engine.interrupt import interruptible
from learner.engine.subclass import check_subclass
from learner.examination import examination
from learner.examination.report import Report
from learner.inference import predictions
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
from learner.resume import resumption, saving
from learner.resume.resumption import Resume
from learner.state import begun, copies, optimizer_modes, snapshots
from learner.state.attributes import FitState
from learner.tools import cost, replay, tuning

Plugin = Callback | type[Callback]


@with_hints
class Learner(FitState):
    """Owns a model, data, a loss and an optimizer, and runs one loop in which plug-ins do everything else.

    Args:
        model: any `nn.Module`, unchanged.
        data: a `Data`, a pair of loaders `(train, valid)`, or a pair of tensors, `(inputs, targets)`.
        loss_func: takes `(preds, targets)`, gives a scalar; None where the model's output has a `.loss`. The
            parameters and buffers of an `nn.Module`, also of one within a `partial` or behind a method of it,
            are placed, trained, saved and restored with the model's. In validation it is in evaluation mode.
        optimizer: makes an optimizer of parameters, as `partial(torch.optim.SGD, lr=0.1)`, or is a ready one;
            a list of several is the same as `Optimizers(...)` of them.
        callbacks: plug-ins, heard in the order of their phases, then in the order given.
        metrics: functions of `(preds, targets)`, our `Metric`s, or torchmetrics' objects.
        defaults: plug-ins that are there unasked; `()` for none.
        splitter: gives, for the model, its layer groups from input to output, as
            `lambda model: [model.body, model.head]`; rates and `freeze` go by them.
        decay_norms: whether weight decay also pulls at biases and at the weights of norms.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says why and what to pass. TypeError
            also when a subclass is defined that takes a private name of the learner.
    """

    #: Of a subclass: names of its own attributes that snapshots and files keep, as ("critic", "n_seen").
    #: They may be modules, optimizers and schedulers.
    state: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_subclass(cls, Learner)

    optimizer_given: Any  #: the optimizer or the factory that was passed

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
        self.loop = Loop()
        self.loop.connect(self, with_defaults(callbacks, metrics, defaults, type(self), OPERATIONS))

    @suggest_keywords
    def fit(
        self,
        n_epochs: int,
        callbacks: Iterable[Plugin] = (),
        *,
        resume: Resume = "never",
        allow: Iterable[str] = (),
    ) -> History:
        """Train for `n_epochs` epochs; `callbacks` are there for this fit only.

        Args:
            n_epochs: how many, those of a run that goes on included.
            callbacks: further plug-ins.
            resume: with `"auto"` the same script, started again, goes on where its `Checkpoint` was saved
                last, or begins where there is none; `"must"` refuses to begin; `"never"` refuses to go on.
            allow: what may differ from the run that goes on, as `("batch_size",)`; the message of a refusal
                has the names.

        Returns:
            The history, continuous over several fits.

        Raises:
            RuntimeError: this is one of several processes, and no callback distributes the fit.
            KeyboardInterrupt: Ctrl-C was pressed; the batch was finished and everything cleaned up first.
        """
        check_fit(self, n_epochs)
        given = as_callbacks(as_list(callbacks, "callbacks"), "callbacks")
        check_processes(self, given)
        modes = optimizer_modes.switching(self)
        with interruptible(self), modes, self.added(*preflight.preflight(), *given):
            point = resumption.find(self, n_epochs, resume, allow)
            if point is not None and point.is_of_a_later_fit:
                self.n_fits += 1
            else:
                self.loop.fit(self, n_epochs, point)
        return self.history

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics that are measured, as they were given."""
        return metrics_of(self.callbacks)

    @property
    def measured(self) -> dict[str, Direction | None]:
        """Names that will stand in `results`, each with the direction in which it is better, where known."""
        return {name: better for plugin in self.callbacks for name, better in plugin.measures.items()}

    # Plug-ins

    @property
    def callbacks(self) -> Callbacks:
        """The plug-ins in the order in which they are heard."""
        return self.loop.callbacks

    def add_callbacks(self, *callbacks: Plugin) -> None:
        """Add plug-ins; in the middle of a fit their `before_fit` is called at once."""
        begun.add(self, as_callbacks(callbacks, "callbacks"))

    def remove_callbacks(self, *callbacks: Plugin | str) -> None:
        """Remove plug-ins; in the middle of a fit their `cleanup_fit` is called at once.

        Args:
            callbacks: plug-ins, their names, or classes, all of which are meant.

        Raises:
            KeyError: there is none of that name or class.
            ValueError: a plug-in that stays needs one that would go.
        """
        begun.remove(self, found_in(self.callbacks, callbacks))

    def added(self, *callbacks: Plugin) -> AbstractContextManager[Learner]:
        """Have these plug-ins as well, within the block; `callbacks` are instances or classes."""
        return begun.added(self, callbacks)

    def without(self, *callbacks: Plugin | str) -> AbstractContextManager[Learner]:
        """Do without these plug-ins within the block; they come back to their places, with their state.

        In the middle of a fit they hear `cleanup_fit` when they go, and `before_fit` when they come back.

        Args:
            callbacks: plug-ins, their names, or classes, all of which are meant.

        Raises:
            KeyError: there is none of that name or class.
            ValueError: a plug-in that stays needs one that would go.
        """
        return begun.without(self, found_in(self.callbacks, callbacks))

    # The operations: a subclass or one callback may override them

    forward = forward
    compute_loss = compute_loss
    backward = backward
    step = step

    # What hooks may ask

    def update(self) -> None:
        """Update the weights with the present gradients, with all events of a step."""
        self.loop.update(self)

    def again(self) -> Tensor:
        """Compute the gradients of this batch again, at the present weights, and return the loss."""
        return again.again(self)

    # Training by a schedule, layer groups, the search for settings

    fit_one_cycle = tuning.fit_one_cycle
    fit_flat_cos = tuning.fit_flat_cos
    fit_sgdr = tuning.fit_sgdr
    fine_tune = tuning.fine_tune
    plot_schedule = tuning.plot_schedule
    freeze_to = tuning.freeze_to
    freeze = tuning.freeze
    unfreeze = tuning.unfreeze
    lr_find = tuning.lr_find
    find_batch_size = tuning.find_batch_size
    cost = cost.measure

    @property
    def layer_groups(self) -> groups.Groups:
        """The parameters by group, from input to output, as the splitter returns them; without one, all."""
        return groups.layer_groups(self.model, self.splitter)

    # Without training, and to files

    validate = predictions.validate
    predict = predictions.predict
    get_preds = predictions.get_preds
    save = saving.save
    load = saving.put_file
    save_step = replay.write

    def snapshot(self) -> dict[str, Any]:
        """Copy weights, buffers, optimizer, plug-in state, random state, clock and history."""
        return snapshots.take(self)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put a snapshot back; it stays usable.

        Raises:
            ValueError: it is of another model, optimizer or composition; nothing has been changed then.
        """
        snapshots.put_back(self, snapshot)

    def sandbox(self) -> AbstractContextManager[Learner]:
        """Leave no trace: everything that a snapshot holds, gradients too, is put back at the block's end."""
        return snapshots.sandbox(self)

    def explain(self) -> None:
        """Print the composed loop: for each event and operation who is called, in which order, why there."""
        print(explain(self))

    def __getstate__(self) -> dict[str, Any]:
        return copies.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        copies.put_state(self, state)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if hasattr(type(self), name) or name in vars(self)]

    def __repr__(self) -> str:
        names = [type(each).__name__ for each in (self.model, self.data, self.optimizer, *self.callbacks)]
        return f"{type(self).__name__}({', '.join(names[:3])}, callbacks=[{', '.join(names[3:])}])"

    def check(self) -> Report:
        """Examine model, data, loss, optimizer and plug-ins on one batch, in a sandbox; print the result."""
        check_assigned(self.optimizer)
        return examination.check(self)
