"""What is wrong with a fit, told before its first weight changes: at its start, and at its first batch.

Every check gives faults: a `LearnerWarning` for what is allowed and probably not meant, another error for
what cannot go well. `learn.check()` looks closer; it stands in `examination.py`.
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
from callbacks.save.checkpoint import Checkpoint
from learner.checks.data_checks import data_faults, item_faults, no_batch
from learner.checks.loss_checks import loss_faults, pred_faults
from learner.checks.optimizer_checks import all_zero, closure_faults, owner_faults, trained_by, unsaved_faults
from learner.checks.pass_watch import PassWatch
from learner.checks.reached import Mark, marks_of, unkept_faults
from learner.data.loaders import n_batches_of
from learner.data.tensors import counted
from learner.messages.arguments import is_optimizer, rate_problems
from learner.messages.problems import LearnerWarning, listed, tell
from learner.state import optimizer_modes


def check_before_fit(learn: Any) -> None:
    """Refuse a fit that cannot go well, before anything of it.

    Raises:
        TypeError, ValueError: all that was found, told at once.
    """
    tell(faults_before_fit(learn, learn.n_epochs))
    if learn.optimizer is not None and Preflight in learn.callbacks:
        learn.callbacks[Preflight].was_idle = all_zero(learn.optimizer)


class Preflight(Callback):
    """Examine the first training batch of a fit, then leave; the learner adds it to every fit."""

    order = Order.SAVE  # heard last: what the other plug-ins leave is what counts
    reads_gradients = False
    was_idle = False  # were all rates 0 when the fit was called?
    marks: list[Mark] = []  # noqa: RUF012 - of modules that nobody keeps; replaced, never changed

    def before_train(self, learn: Any) -> None:
        tell(training_faults(learn))
        report_loss(learn)
        reached = f"what loss {id(learn.loss_func)} reaches"
        self.marks = [] if reached in learn.reported else marks_of(learn)
        learn.reported.add(reached)

    def after_pred(self, learn: Any) -> None:
        if learn.training and does_itself(learn, "compute_loss"):
            tell(pred_faults(learn))
        if learn.training and id(learn.data) not in learn.reported:
            tell(item_faults(learn))
            learn.reported.add(id(learn.data))

    def after_loss(self, learn: LearnerProtocol) -> None:
        if learn.training:
            tell(loss_faults(learn))

    def before_step(self, learn: LearnerProtocol) -> None:
        # a warm-up may begin at 0, and a schedule may take over from 0: only both together are a mistake
        if self.was_idle and all_zero(learn.optimizer):
            tell(
                [
                    LearnerWarning(
                        "lr is 0, so nothing is trained: set a rate above 0, as in SGD(..., lr=0.1)."
                    )
                ]
            )

    def after_batch(self, learn: Any) -> None:
        if learn.training:
            learn.remove_callbacks(self)
            if self.marks:
                tell(unkept_faults(self.marks, set(map(id, trained_by(learn)))))

    def after_train(self, learn: LearnerProtocol) -> None:
        if learn.n_batches == 0:
            raise no_batch("train", learn.data.train)


class EpochWatch(Callback):
    """Warn when the data runs dry, or parameters are replaced, from epoch to epoch."""

    order = Order.SAVE  # called last, when `Checkpoint` has said that it saves

    def __init__(self) -> None:
        super().__init__()
        self.n_bad: dict[str, int] = {}  #: how many numbers were NaN or infinite as the fit began, by name
        #: Names of what held no NaN then and has not been reported since; empty if nothing is saved.
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
        optimizer_modes.follow(learn)
        loss = loss_module(learn.loss_func)
        if self._places is not None and self._places.are_of(learn.model) and loss is self._loss:
            return
        if self._places is not None and does_itself(learn, "step"):
            tell(replacement_faults(learn))
        self._places, self._loss = Places(learn.model), loss

    def after_train(self, learn: Any) -> None:
        n_batches, loader = learn.n_batches, learn.data.train
        if loader is not self._loader or self._n_batches is None:  # epochs may have loaders of their own
            self._loader, self._n_batches = loader, n_batches
        elif n_batches is not None and n_batches < self._n_batches:
            if n_batches != n_batches_of(loader) and not learn.loop.known.has_wrong_length():
                tell([fewer_batches(learn, n_batches, self._n_batches)])
            self._n_batches = n_batches  # told once

    def after_fit(self, learn: LearnerProtocol) -> None:
        tell(state_faults(learn.callbacks))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._places = self._loss = self._loader = None


def state_faults(plugins: Iterable[Callback]) -> Iterator[Exception]:
    """Names among a plug-in's `state` that a whole fit has not set: misspelt, so they would not be kept."""
    for plugin in plugins:
        missing = [name for name in plugin.state if not hasattr(plugin, name)]
        if missing:
            title = type(plugin).__name__
            yield LearnerWarning(
                f"{title}.state names {', '.join(map(repr, missing))}, but {title} has no such attribute "
                "after a fit, so snapshots do not keep it: spell it as the attribute, or set it in "
                "before_fit."
            )


def preflight() -> tuple[Callback, ...]:
    """What the learner adds to every fit: instances, as the registry takes 50 microseconds to make them."""
    return Preflight(), EpochWatch(), PassWatch()


# Before the fit


def faults_before_fit(learn: Any, n_epochs: int) -> Iterator[Exception]:
    """What can be seen without a batch, and would spoil the first thing that a fit does."""
    yield from mode_faults()
    if "zero_grad" not in learn.callbacks.overrides and not hasattr(type(learn), "zero_grad"):
        yield ValueError(f"this fit cannot start: {REMEDIES['zero_grad']}")
    yield from data_faults(learn.data, n_epochs)
    if learn.optimizer is None:
        yield no_optimizer(learn.model)
    else:
        yield from rate_problems(learn.optimizer)
        yield from closure_faults(learn, does_itself(learn, "step"))


def mode_faults() -> Iterator[Exception]:
    """Gradients are switched off around the fit."""
    inference = torch.is_inference_mode_enabled()
    if inference or not torch.is_grad_enabled():
        name = "torch.inference_mode()" if inference else "torch.no_grad()"
        yield ValueError(f"{name} is on around this call, and a fit needs gradients: call it outside.")


def no_optimizer(model: nn.Module) -> Exception:
    """There is nothing that could make a step."""
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        return all_frozen(parameters)
    return TypeError(
        "optimizer is None, so nothing can be trained: pass Learner(..., "
        "optimizer=partial(torch.optim.SGD, lr=0.1))."
    )


# Before the first batch


def training_faults(learn: Any) -> Iterator[Exception]:
    """What is wrong between model and optimizer."""
    named = [*learn.model.named_parameters(), *loss_parameters(learn).items()]
    trainable = {name: parameter for name, parameter in named if parameter.requires_grad}
    if not trainable:
        yield all_frozen([parameter for _, parameter in named])
    held = [parameter for group in learn.optimizer.param_groups for parameter in group["params"]]
    own = set(map(id, held))
    if len(own) < len(held):
        yield ValueError(
            f"the optimizer holds {counted(len(held) - len(own), 'parameter', 'parameters')} "
            "twice, so each step would move it twice: give it each once, as model.parameters() does."
        )
    if any(not is_lazy(parameter) and parameter.is_inference() for parameter in trainable.values()):
        yield ValueError(
            "the model was made under torch.inference_mode(), so it cannot be trained: make it outside."
        )
    holds_all = all(id(parameter) in own for parameter in trainable.values())
    if not holds_all and does_itself(learn, "step"):  # else no other optimizer is looked for: that takes long
        yield from owner_faults(trainable, held, trained_by(learn))
    if Checkpoint in learn.callbacks:
        yield from unsaved_faults(learn)


def report_loss(learn: Any) -> None:
    """Print once that a factory's optimizer also trains the parameters of the loss."""
    module, trained = loss_module(learn.loss_func), loss_parameters(learn)
    if not trained or is_optimizer(learn.optimizer_given) or id(module) in learn.reported:
        return
    learn.reported.add(id(module))
    held = {id(each) for group in learn.optimizer.param_groups for each in group["params"]}
    names = [name for name, each in trained.items() if id(each) in held]
    if names:
        print_line(f"the loss {type(module).__name__} is trained with the model: {listed(names)}")


def all_frozen(parameters: list[nn.Parameter]) -> Exception:
    """Nothing can be trained."""
    if not parameters:
        return ValueError("the model has no parameters, so there is nothing to train.")
    return ValueError(
        f"the model is frozen (0 of {counted(len(parameters), 'tensor requires', 'tensors require')} a "
        "gradient), so there is nothing to train: call requires_grad_(True) on the layers to train, then "
        "make the learner."
    )


# From epoch to epoch


def replacement_faults(learn: Any) -> Iterator[Exception]:
    """Parameters that came during the fit and are in no optimizer."""
    held = set(map(id, trained_by(learn)))
    named = [*learn.model.named_parameters(), *loss_parameters(learn).items()]
    new = [name for name, parameter in named if parameter.requires_grad and id(parameter) not in held]
    if new:
        yield LearnerWarning(
            f"{listed(new)} came or were replaced during training (before epoch {learn.epoch} of "
            f"{learn.n_epochs}), and the optimizer does not hold them, so they are not trained: change "
            "weights in place with parameter.data.copy_(...), or call learn.optimizer.add_param_group."
        )


def fewer_batches(learn: Any, n_batches: int, n_first: int) -> Exception:
    """The data runs dry."""
    return LearnerWarning(
        f"epoch {learn.epoch} of {learn.n_epochs} had {n_batches} training batches, the one before "
        f"{n_first}: the data seems to be used up as it is gone through. Pass a list, or a function that "
        "gives the batches anew."
    )


# Small ones


def does_itself(learn: Any, operation: str) -> bool:
    """Is this operation done in the loop's way: by no subclass, and no plug-in but one that does the same?"""
    return learn.loop.runs_default(operation)
