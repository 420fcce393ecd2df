"""Optimizers with a training and an evaluation mode: which weights are used when, and how a run resumes."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from resumed import Crash, Interrupt
from schedule_free import ScheduleFreeSGD
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, lr_scheduler

from callbacks import (
    EMA,
    SWA,
    Callback,
    CancelEpoch,
    Checkpoint,
    EarlyStopping,
    LeanStep,
    Metrics,
    Order,
    ParamScheduler,
    Recorder,
    TorchScheduler,
    ValidateEvery,
    WholeStep,
    ZeroGrad,
)
from callbacks.schedule.annealers import cos
from learner import Data, Learner

QUIET = (ZeroGrad, Metrics, Recorder)


class Flagged(SGD):
    """Keeps its mode in an attribute outside its state dict, and starts in training mode."""

    is_training = True

    @torch.no_grad()
    def _turn(self, is_training: bool) -> None:
        """In evaluation mode the weights are half as large."""
        if self.is_training is not is_training:
            self.is_training = is_training
            for each in self.param_groups[0]["params"]:
                each.mul_(2.0 if is_training else 0.5)

    def train(self):
        self._turn(True)

    def eval(self):
        self._turn(False)

    def step(self, closure=None):
        assert self.is_training
        return super().step(closure)


class Wrapped:
    """A wrapper around a schedule-free optimizer."""

    def __init__(self, params):
        self.inner = ScheduleFreeSGD(params)

    param_groups = property(lambda self: self.inner.param_groups)

    def step(self):
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()

    def train(self):
        self.inner.train()

    def eval(self):
        self.inner.eval()

    def state_dict(self):
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])


KINDS = [
    ScheduleFreeSGD,
    partial(Flagged, lr=0.05, momentum=0.9),
    Wrapped,
    [(ScheduleFreeSGD, lambda name, p: p.ndim == 2), partial(SGD, lr=0.1)],
]


def learner_of(*callbacks, optimizer=ScheduleFreeSGD, valid=True, **options) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    data = Data(line_batches(4), line_batches(2) if valid else None)
    return Learner(model, data, F.mse_loss, optimizer, callbacks, defaults=QUIET, **options)


def weights(learn) -> list[torch.Tensor]:
    return [each.detach().clone() for each in learn.model.parameters()]


def same(one, other) -> bool:
    return all(map(torch.equal, one, other))


def by_hand(n_epochs: int) -> tuple[list[torch.Tensor], list[float]]:
    """Train by the loop that the optimizer's authors ask for; return final weights and validation losses."""
    learn, losses = learner_of(), []
    model, optimizer = learn.model, learn.optimizer
    for _ in range(n_epochs):
        optimizer.train()
        for inputs, targets in line_batches(4):
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.eval()
        with torch.no_grad():
            means = [F.mse_loss(model(inputs), targets) for inputs, targets in line_batches(2)]
        losses.append(float(torch.stack(means).mean()))
    return weights(learn), losses


def test_a_fit_has_the_bits_of_a_hand_written_loop_that_switches():
    learn = learner_of()
    learn.fit(3)
    expected, losses = by_hand(3)
    assert same(weights(learn), expected)
    assert list(learn.history["valid_loss"]) == pytest.approx(losses)


def test_without_validation_the_fit_still_ends_with_the_evaluation_weights():
    learn = learner_of(valid=False)
    learn.fit(3)
    assert same(weights(learn), by_hand(3)[0])


@pytest.mark.parametrize("optimizer", KINDS, ids=["settings", "attribute", "wrapped", "several"])
@pytest.mark.parametrize("at", [3, 5, 8, 10, 13])
def test_a_run_that_is_interrupted_resumes_with_the_same_bits(optimizer, at, tmp_path):
    whole = learner_of(optimizer=optimizer)
    whole.fit(3)
    interrupted = learner_of(Checkpoint(tmp_path), Interrupt(at), optimizer=optimizer)
    interrupted.fit(3)
    resumed = learner_of(Checkpoint(tmp_path), optimizer=optimizer)
    resumed.fit(3, resume="must")
    assert same(weights(resumed), weights(whole))
    assert resumed.history["valid_loss"] == whole.history["valid_loss"]


@pytest.mark.parametrize("optimizer", KINDS, ids=["settings", "attribute", "wrapped", "several"])
def test_reading_the_weights_during_a_pass_changes_nothing(optimizer, tmp_path):
    class Look(Callback):
        order = Order.REPORT

        def after_batch(self, learn):
            if learn.training:
                before = weights(learn)
                learn.predict(torch.ones(1, 1))
                learn.validate()
                learn.get_preds()
                learn.save(tmp_path / "step.pt")
                with learn.sandbox():
                    for each in learn.model.parameters():
                        each.data.fill_(9.0)
                learn.restore(learn.snapshot())
                assert same(before, weights(learn))

    plain, looked = learner_of(optimizer=optimizer), learner_of(Look, optimizer=optimizer)
    plain.fit(2)
    looked.fit(2)
    assert same(weights(plain), weights(looked))


def test_a_prediction_during_a_pass_uses_the_mean_of_the_steps():
    seen = []

    class Look(Callback):
        def after_batch(self, learn):
            if learn.training and not seen:
                seen.append(learn.predict(torch.ones(1, 1)))
                learn.stop("enough")

    learn = learner_of(Look)
    learn.fit(1)
    assert torch.equal(seen[0], learn.predict(torch.ones(1, 1)))


def test_a_save_during_a_pass_contains_the_evaluation_weights(tmp_path):
    learn = learner_of(Checkpoint(tmp_path), Interrupt(3))
    learn.fit(2)
    (path,) = tmp_path.glob("step-*.pt")
    saved = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(each, saved[name]) for name, each in learn.model.state_dict().items())
    for only in (None, "model"):
        fresh = learner_of(Checkpoint(tmp_path / "other"))
        fresh.load(path, only=only)
        assert same(weights(fresh), weights(learn))


def test_the_best_weights_are_those_that_were_validated():
    learn = learner_of(EarlyStopping(patience=1, min_delta=100.0))
    learn.fit(4)
    assert learn.validate()["valid_loss"] == pytest.approx(learn.history["valid_loss"][0])


def test_an_epoch_that_is_cancelled_ends_in_evaluation_mode(tmp_path):
    class Leave(Callback):
        def after_batch(self, learn):
            if learn.epoch == 0 and learn.batch_idx == 1:
                raise CancelEpoch

    learn = learner_of(Leave, Checkpoint(tmp_path / "whole"))
    learn.fit(3)
    assert not learn.optimizer.param_groups[0]["is_training"]
    crashed = learner_of(Leave, Checkpoint(tmp_path / "resumed"), Crash(4))
    with pytest.raises(ZeroDivisionError):
        crashed.fit(3)
    resumed = learner_of(Leave, Checkpoint(tmp_path / "resumed"))
    resumed.fit(3, resume="must")
    assert same(weights(resumed), weights(learn))


def test_an_error_leaves_the_evaluation_weights():
    learn = learner_of(Crash(3))
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert not learn.optimizer.param_groups[0]["is_training"]


@pytest.mark.parametrize("optimizer", KINDS, ids=["settings", "attribute", "wrapped", "several"])
def test_training_in_a_sandbox_leaves_no_trace(optimizer, capsys):
    learn = learner_of(optimizer=optimizer)
    learn.fit(1)
    before = weights(learn)
    learn.lr_find(n_steps=20)
    assert learn.check().ok
    assert same(before, weights(learn))
    other = learner_of(optimizer=optimizer)
    other.fit(1)
    learn.fit(1)
    other.fit(1)
    assert same(weights(other), weights(learn))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ParamScheduler({"lr": cos(0.1, 0.01)}),
        lambda: TorchScheduler(partial(lr_scheduler.StepLR, step_size=1)),
        lambda: ValidateEvery("3 steps"),
        lambda: EMA(0.5),
    ],
    ids=["ParamScheduler", "TorchScheduler", "ValidateEvery", "EMA"],
)
def test_a_second_fit_continues_beside_other_callbacks(callback):
    learn = learner_of(callback())
    learn.fit(1)
    group = learn.optimizer.param_groups[0]
    assert (group["lr"], group["is_training"], group["n_steps"]) == (0.1, False, 4)
    learn.fit(1)
    assert learn.optimizer.param_groups[0]["n_steps"] == 8


def test_an_average_of_the_weights_uses_those_of_training_mode():
    averages = []

    class Steps(Callback):
        def after_step(self, learn):
            averages.append(weights(learn))

    learn = learner_of(Steps, EMA(0.5, warmup=False))
    mean = weights(learn)
    learn.fit(1)
    for step in averages:
        mean = [one.lerp(other, 0.5) for one, other in zip(mean, step, strict=True)]
    assert all(map(torch.allclose, mean, weights(learn)))


def test_swa_averages_the_evaluation_weights_at_the_end_of_each_epoch():
    ends = []

    class Ends(Callback):
        def after_validate(self, learn):
            ends.append(weights(learn))

    learn = learner_of(Ends, SWA(1))
    learn.fit(3)
    mean = [(one + other) / 2 for one, other in zip(ends[1], ends[2], strict=True)]
    assert all(map(torch.allclose, mean, weights(learn)))


@pytest.mark.parametrize(
    ("one", "other"), [(partial(SGD, lr=0.1), ScheduleFreeSGD), (ScheduleFreeSGD, partial(SGD, lr=0.1))]
)
def test_an_optimizer_with_modes_may_replace_another_during_a_fit(one, other):
    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer = other(learn.model.parameters())

    learn = learner_of(Replace, optimizer=one)
    before = len(learn.callbacks)
    learn.fit(3)
    assert not learn.optimizer.param_groups[0].get("is_training", False)
    assert len(learn.callbacks) == before
    learn.fit(1)


@pytest.mark.filterwarnings("ignore::callbacks.LearnerWarning")
@pytest.mark.parametrize("fast", [LeanStep, partial(WholeStep, "eager")])
def test_the_fast_steps_train_like_the_ordinary_step(fast):
    ordinary, quick = learner_of(), learner_of(fast())
    ordinary.fit(2)
    quick.fit(2)
    assert all(map(torch.allclose, weights(ordinary), weights(quick)))


def test_the_cost_of_a_step_is_measured_in_training_mode(capsys):
    assert learner_of().cost(20).n_steps == 20


def test_an_optimizer_without_modes_adds_no_callbacks():
    seen = []

    class Look(Callback):
        def before_batch(self, learn):
            seen.append(len(learn.callbacks))

    learn, other = learner_of(Look, optimizer=partial(SGD, lr=0.1)), learner_of(Look)
    learn.fit(1)
    n_plain = seen[-1]
    other.fit(1)
    assert seen[-1] == n_plain + 2


def test_a_copy_of_the_optimizer_is_not_asked_for_a_mode_it_lacks():
    learn = learner_of(optimizer=partial(SGD, lr=0.1))
    kept = copy.deepcopy(learn.snapshot())
    learn.fit(1)
    learn.restore(kept)
    assert same(weights(learn), weights(learner_of()))
