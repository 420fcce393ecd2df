"""Optimizers that callbacks and subclasses own, and steps that need a closure."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, AdamW
from upper.foreign_optimizers import QUIET, Both, learner_of, same, weights

from callbacks import (
    SAM,
    Callback,
    Checkpoint,
    ClosureStep,
    LeanStep,
    on,
)
from learner import Data, Learner

# Optimizers of callbacks


def halves(model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    found = list(model.parameters())
    return [each for each in found if each.ndim == 2], [each for each in found if each.ndim != 2]


@pytest.mark.parametrize(
    "hold", [lambda one: one, lambda one: [one], lambda one: {"second": one}], ids=["itself", "list", "dict"]
)
def test_weights_that_a_callbacks_optimizer_trains_are_not_reported_as_untrained(hold, capsys):
    learn = learner_of(optimizer=None)
    first, second = halves(learn.model)

    class Second(Callback):
        def __init__(self):
            super().__init__()
            self.one = AdamW(second, lr=0.01)
            self.held = hold(self.one)
            del self.one

    learn = learner_of(Second, optimizer=SGD(first, lr=0.1), model=learn.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    report = learn.check()
    assert not report.warnings
    assert report.facts["optimizer"].endswith("holds 4 of 4 trainable tensors")


def test_weights_that_an_optimizer_of_a_subclass_trains_are_not_reported_as_untrained():
    class Two(Learner):
        def step(self):
            self.optimizer.step()
            self.second.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))
    first, second = halves(model)
    learn = Two(model, Data(line_batches(2)), F.mse_loss, SGD(first, lr=0.1), defaults=QUIET)
    learn.second = SGD(second, lr=0.1)
    assert not learn.check().warnings


def test_an_optimizer_that_a_callback_makes_in_before_fit_is_known_to_a_check():
    class Second(Callback):
        def before_fit(self, learn):
            self.optimizer = AdamW(halves(learn.model)[1], lr=0.01)

        def after_step(self, learn):
            self.optimizer.step()
            self.optimizer.zero_grad()

    model = learner_of(optimizer=None).model
    learn = learner_of(Second, optimizer=SGD(halves(model)[0], lr=0.1), model=model)
    report = learn.check()
    assert not report.warnings
    assert report.facts["optimizer"].endswith("holds 4 of 4 trainable tensors")


def with_function(parameters, *callbacks, through_helper=False, model=None, first=()):
    second = AdamW(parameters, lr=0.01)

    def helper():
        second.step()
        second.zero_grad()

    @on("after_step")
    def step_second(learn):
        helper() if through_helper else (second.step(), second.zero_grad())

    return learner_of(step_second, *callbacks, optimizer=SGD(first, lr=0.1), model=model)


@pytest.mark.parametrize("through_helper", [False, True])
def test_an_optimizer_that_a_function_of_on_steps_trains_and_is_reported_where_the_run_is_saved(
    through_helper, tmp_path
):
    model = learner_of(optimizer=None).model
    first, second = halves(model)
    options = {"through_helper": through_helper, "model": model, "first": first}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_function(second, **options).fit(1)
    with pytest.warns(
        UserWarning, match="'step_second' uses AdamW, an optimizer whose state is not saved in checkpoints"
    ):
        with_function(second, Checkpoint(tmp_path), **options).fit(1)


def test_a_builtin_function_as_a_callback_is_searched_for_optimizers():
    seen = []
    learner_of(on("after_batch")(seen.append), optimizer=partial(SGD, lr=0.1)).fit(1)
    assert len(seen) == 6


class Second(Callback):
    """A callback that steps its own optimizer."""

    def __init__(self, parameters):
        super().__init__()
        self.optimizer = AdamW(parameters, lr=0.01)

    def after_step(self, learn):
        self.optimizer.step()
        self.optimizer.zero_grad()


class SavedSecond(Second):
    """A callback that steps its own optimizer, and saves it."""

    state = ("optimizer",)


def two(kind, *callbacks):
    learn = learner_of(optimizer=None)
    first, second = halves(learn.model)
    return learner_of(kind(second), *callbacks, optimizer=SGD(first, lr=0.1), model=learn.model)


def test_an_optimizer_that_a_callback_does_not_save_is_reported_where_the_run_is_saved(tmp_path):
    with pytest.warns(UserWarning, match=r"write state = \('optimizer',\) in the class Second"):
        two(Second, Checkpoint(tmp_path / "one")).fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two(Second).fit(1)
        two(SavedSecond, Checkpoint(tmp_path / "two")).fit(1)
        two(SavedSecond, Checkpoint(tmp_path / "three"), LeanStep()).fit(2)


def test_an_optimizer_that_a_callback_saves_resumes_with_the_same_bits(tmp_path):
    whole = two(SavedSecond, Checkpoint(tmp_path / "whole", every="1 step"))
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        two(SavedSecond, Checkpoint(tmp_path / "resumed", every="1 step"), Crash(9)).fit(3)
    resumed = two(SavedSecond, Checkpoint(tmp_path / "resumed", every="1 step"))
    resumed.fit(3, resume="must")
    assert same(weights(resumed), weights(whole))


def test_weights_that_no_optimizer_trains_are_still_reported():
    learn = learner_of(optimizer=None)
    learn = learner_of(optimizer=SGD(halves(learn.model)[0], lr=0.1), model=learn.model)
    with pytest.warns(UserWarning, match="it does not train 0.bias, 2.bias"):
        learn.fit(1)


# Steps that need a closure


class Probing(SGD):
    """An optimizer that needs a closure under another name."""

    def step(self, evaluate):
        loss = evaluate()
        super().step()
        return loss


@pytest.mark.parametrize("optimizer", [LBFGS, partial(Probing, lr=0.1)])
@pytest.mark.parametrize("callbacks", [[], [LeanStep], [SAM]], ids=["none", "LeanStep", "SAM"])
def test_a_step_that_needs_a_closure_is_refused_with_the_fix(optimizer, callbacks):
    learn = learner_of(*callbacks, optimizer=optimizer)
    before = weights(learn)
    with pytest.raises(TypeError, match=r"needs a closure .*callbacks=\[ClosureStep\(\)\]"):
        learn.fit(1)
    assert same(before, weights(learn))
    (error,) = learn.check().errors
    assert "ClosureStep()" in error


@pytest.mark.parametrize("at", ["before the learner", "in before_fit"])
def test_an_optimizer_with_a_scheduler_of_the_users_trains_as_by_hand_in_each_fit(at):
    def parts():
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        return model, SGD(model.parameters(), lr=0.1)

    model, optimizer = parts()
    scheduler, batches = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), line_batches(3)
    for _ in range(2):
        for inputs, targets in batches:
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()

    class Halve(Callback):
        def __init__(self, optimizer):
            super().__init__()
            self.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if optimizer else None

        def before_fit(self, learn):
            self.scheduler = self.scheduler or torch.optim.lr_scheduler.StepLR(learn.optimizer, 1, 0.5)

        def after_epoch(self, learn):
            self.scheduler.step()

    other, theirs = parts()
    halve = Halve(theirs if at == "before the learner" else None)
    learn = Learner(other, Data(batches), F.mse_loss, theirs, [halve], defaults=QUIET)
    learn.fit(1)
    learn.fit(1)
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("optimizer", [LBFGS, partial(Probing, lr=0.1)])
def test_a_step_that_needs_a_closure_is_refused_with_a_scheduler_too(optimizer):
    learn = learner_of(optimizer=optimizer)
    torch.optim.lr_scheduler.StepLR(learn.optimizer, 1)
    with pytest.raises(TypeError, match="needs a closure"):
        learn.fit(1)


def test_a_step_with_its_closure_or_with_an_optional_one_is_not_refused():
    class Own(Callback):
        def step(self, learn):
            learn.optimizer.step(lambda: learn.loss_grad)

    class Optional(SGD):
        def step(self, closure=None, *, scale=1.0):
            return super().step(closure)

    learner_of(ClosureStep, optimizer=LBFGS).fit(1)
    learner_of(Own, optimizer=partial(Probing, lr=0.1)).fit(1)
    learner_of(optimizer=partial(Optional, lr=0.1)).fit(1)
    copy.deepcopy(learner_of(optimizer=Both).optimizer).step()
