"""The checks that run in every fit: before it starts, at its first batch, and after each training pass.

Each check yields problems: a `LearnerWarning` for what is allowed and probably not meant, another error for
what cannot work. `learn.check()` of `learner/examination` checks more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import loss_module, loss_parameters
from callbacks.core.output import print_line
from callbacks.core.registry import REMEDIES
from callbacks.guard.last_good import tensors_of
from callbacks.model.finite import n_bad, nan_buffers, suspects
from callbacks.model.places import Places
from learner.checks.data_checks import data_problems, item_problems, no_batch
from learner.checks.loss_checks import loss_problems, pred_problems
from learner.checks.optimizer_checks import (
    all_zero,
    closure_problems,
    owner_problems,
    trained_by,
    unsaved_problems,
)
from learner.checks.output_checks import metric_problems, metric_shape_problems, output_problems
from learner.checks.pass_watch import PassWatch
from learner.checks.process_checks import ranks_of
from learner.checks.reached import Mark, marks_of, unkept_problems
from learner.checks.same_on_all import check_same_on_all
from learner.data.samples import samples_of
from learner.data.tensors import counted
from learner.messages.arguments import is_optimizer, rate_problems
from learner.messages.problems import LearnerWarning, listed, report_problems
from learner.state import optimizer_modes
from learner.state.protocol import FullLearner, full


def check_before_fit(learn: FullLearner) -> None:
    """Refuse a fit that cannot work, before any part of it runs; the error lists all problems."""
    report_problems(problems_before_fit(learn, learn.n_epochs))
    check_same_on_all(learn)
    if learn.optimizer is not None and Preflight in learn.callbacks:
        learn.callbacks[Preflight].was_idle = all_zero(learn.optimizer)


class Preflight(Callback):
    """Check the first training batch of a fit, then remove itself; part of every fit."""

    only_observes = True
    order = Order.SAVE  # called last, to check what the other callbacks leave
    reads_gradients = False
    was_idle = False  # were all learning rates 0 when the fit was called?
    marks: list[Mark] = []  # noqa: RUF012 - of modules that are not saved; replaced, never changed

    def before_train(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        report_problems(training_problems(learn))
        report_loss(learn)
        reached = f"what loss {id(learn.loss_func)} reaches"
        self.marks = [] if reached in learn.reported else marks_of(learn)
        learn.reported.add(reached)

    def after_pred(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        if learn.training and learn.loop.runs_default("compute_loss"):
            found = [*pred_problems(learn), *output_problems(learn, learn.preds, learn.loss_func)]
            report_problems([*found, *metric_problems(learn), *metric_shape_problems(learn)])
        if learn.training and id(learn.data) not in learn.reported:
            report_problems(item_problems(learn))
            learn.reported.add(id(learn.data))

    def after_loss(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        if learn.training:
            report_problems(loss_problems(learn))

    def before_step(self, learn: LearnerProtocol) -> None:
        # a warm-up may start at 0, and a schedule may take over from 0: only both together are a mistake
        if self.was_idle and all_zero(learn.optimizer):
            idle = "lr is 0, so nothing is trained: set a rate above 0, as in SGD(..., lr=0.1)."
            report_problems([LearnerWarning(idle)])

    def after_batch(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        if learn.training:
            learn.remove_callbacks(self)
            note_samples(learn)
            if self.marks:
                report_problems(unkept_problems(self.marks, set(map(id, trained_by(learn)))))

    def after_train(self, learn: LearnerProtocol) -> None:
        if learn.n_batches == 0:
            raise no_batch("train", learn.data.train)


def note_samples(learn: FullLearner) -> None:
    """Keep what one item of a training batch looks like for `predict`.

    It is the item before callbacks changed it, unless a split function of the user made it, which may draw
    numbers.
    """
    known, data = learn.loop.known, learn.data
    if learn.batch is None or (known.samples is not None and known.samples[0] is data):
        return  # a callback has dropped the batch, or it is known
    inputs = learn.inputs if data.custom_split is not None else data.split(learn.batch)[0]
    known.samples = data, samples_of(inputs, learn.n_items)


class EpochWatch(Callback):
    """Warn if an epoch has fewer batches than the one before, or parameters were replaced."""

    order = Order.SAVE  # called last, so that `learn.marks_passes` is set by `Checkpoint`

    def __init__(self) -> None:
        super().__init__()
        self.n_bad: dict[str, int] = {}  #: by name, how many numbers were NaN or infinite at the start
        #: The names without NaN at the start that have not been reported since; empty if nothing is saved.
        self.good: set[str] = set()

    def before_fit(self, learn: LearnerProtocol) -> None:
        found = tensors_of(learn) if learn.marks_passes else {}
        counts = {name: n_bad(name, found[name], found[name]) for name in suspects(found)}
        self.n_bad = {name: count for name, count in counts.items() if count}
        self.good = set(found) - nan_buffers(found)
        self._n_batches: int | None = None
        self._loader: Any = None
        self._places: Places | None = None
        self._loss: nn.Module | None = None

    def before_train(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        optimizer_modes.follow(learn)
        loss = loss_module(learn.loss_func)
        if self._places is not None and self._places.are_of(learn.model) and loss is self._loss:
            return
        if self._places is not None and learn.loop.runs_default("step"):
            report_problems(replacement_problems(learn))
        self._places, self._loss = Places(learn.model), loss

    def after_train(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        n_batches, loader = learn.n_batches, learn.data.train
        if loader is not self._loader or self._n_batches is None:  # each epoch may have its own loader
            self._loader, self._n_batches = loader, n_batches
        elif n_batches is not None and n_batches < self._n_batches:
            if not learn.loop.known.accounts_for(n_batches, loader):
                message = (
                    f"epoch {learn.epoch} of {learn.n_epochs} had {n_batches} training batches, the one "
                    f"before {self._n_batches}: reading the data seems to use it up. Pass a list, or a "
                    "function that returns new batches."
                )
                report_problems([LearnerWarning(message)])
            self._n_batches = n_batches  # warn once

    def after_fit(self, learn: LearnerProtocol) -> None:
        report_problems(state_problems(learn.callbacks))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._places = self._loss = self._loader = None


def state_problems(callbacks: Iterable[Callback]) -> Iterator[Exception]:
    """Names in the `state` of a callback that a whole fit has not set: probably misspelt, so not saved."""
    for callback in callbacks:
        missing = [name for name in callback.state if not hasattr(callback, name)]
        if missing:
            title = type(callback).__name__
            yield LearnerWarning(
                f"{title}.state lists {', '.join(map(repr, missing))}, but {title} has no such attribute "
                "after a fit, so snapshots do not save it: correct the spelling, or set it in before_fit."
            )


def preflight() -> tuple[Callback, ...]:
    """The callbacks that are part of every fit; instances, as the registry would take 50 us to make them."""
    return Preflight(), EpochWatch(), PassWatch()


# Before the fit


def problems_before_fit(learn: FullLearner, n_epochs: int) -> Iterator[Exception]:
    """Problems that are visible without a batch: gradient mode, `zero_grad`, data, optimizer."""
    yield from mode_problems()
    if "zero_grad" not in learn.callbacks.overrides and not hasattr(type(learn), "zero_grad"):
        yield ValueError(f"this fit cannot start: {REMEDIES['zero_grad']}")
    has_own_data = any(getattr(each, "sharded", False) for each in learn.callbacks)
    may_be_empty = has_own_data and ranks_of(learn).size > 1
    yield from data_problems(learn.data, n_epochs, may_be_empty=may_be_empty)
    if learn.optimizer is None:
        yield no_optimizer(learn.model)
    else:
        yield from rate_problems(learn.optimizer)
        yield from closure_problems(learn, learn.loop.runs_default("step"))


def mode_problems() -> Iterator[Exception]:
    """Gradients that are disabled around the fit."""
    inference = torch.is_inference_mode_enabled()
    if inference or not torch.is_grad_enabled():
        name = "torch.inference_mode()" if inference else "torch.no_grad()"
        yield ValueError(f"this call is inside {name}, and a fit needs gradients: call it outside.")


def no_optimizer(model: nn.Module) -> Exception:
    """An error: there is no optimizer, or nothing to optimize."""
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        return all_frozen(parameters)
    return TypeError(
        "optimizer is None, so nothing can be trained: pass Learner(..., "
        "optimizer=partial(torch.optim.SGD, lr=0.1))."
    )


# Before the first batch


def training_problems(learn: FullLearner) -> Iterator[Exception]:
    """Problems of the model's parameters and the optimizer."""
    named = [*learn.model.named_parameters(), *loss_parameters(learn).items()]
    trainable = {name: parameter for name, parameter in named if parameter.requires_grad}
    if not trainable:
        yield all_frozen([parameter for _, parameter in named])
    held = [parameter for group in learn.optimizer.param_groups for parameter in group["params"]]
    own = set(map(id, held))
    if len(own) < len(held):
        yield ValueError(
            f"the optimizer contains {counted(len(held) - len(own), 'parameter', 'parameters')} twice, "
            "and each step would update it twice. Pass each once, as model.parameters() does."
        )
    if any(not is_lazy(parameter) and parameter.is_inference() for parameter in trainable.values()):
        yield ValueError(
            "the model was made inside torch.inference_mode(), so it cannot be trained: create it outside."
        )
    holds_all = all(id(parameter) in own for parameter in trainable.values())
    if not holds_all and learn.loop.runs_default("step"):  # the search for other optimizers is slow
        yield from owner_problems(trainable, held, trained_by(learn))
    if any(each.saves_checkpoints for each in learn.callbacks):
        yield from unsaved_problems(learn)


def report_loss(learn: FullLearner) -> None:
    """Print once that the optimizer also trains the parameters of the loss."""
    module, trained = loss_module(learn.loss_func), loss_parameters(learn)
    if not trained or is_optimizer(learn.optimizer_given) or id(module) in learn.reported:
        return
    learn.reported.add(id(module))
    held = {id(each) for group in learn.optimizer.param_groups for each in group["params"]}
    names = [name for name, each in trained.items() if id(each) in held]
    if names:
        print_line(f"the loss {type(module).__name__} is trained with the model: {listed(names)}")


def all_frozen(parameters: list[nn.Parameter]) -> Exception:
    """An error: the model has no trainable parameters."""
    if not parameters:
        return ValueError("the model has no parameters, so there is nothing to train.")
    return ValueError(
        f"the model is frozen (0 of {counted(len(parameters), 'tensor requires', 'tensors require')} a "
        "gradient), so there is nothing to train: call requires_grad_(True) on the layers to train, then "
        "make the learner."
    )


# From epoch to epoch


def replacement_problems(learn: FullLearner) -> Iterator[Exception]:
    """Parameters that are new or replaced since the fit started, and not in an optimizer."""
    held = set(map(id, trained_by(learn)))
    named = [*learn.model.named_parameters(), *loss_parameters(learn).items()]
    new = [name for name, parameter in named if parameter.requires_grad and id(parameter) not in held]
    if new:
        yield LearnerWarning(
            f"{listed(new)} were added or replaced during training (before epoch {learn.epoch} of "
            f"{learn.n_epochs}), and are not in the optimizer, so they are not trained: change weights in "
            "place with parameter.data.copy_(...), or call learn.optimizer.add_param_group."
        )
