"""Optimizers with a training and an evaluation mode: which weights are used when, and how a run resumes."""

from __future__ import annotations

import pytest
import torch
from resumed import Crash, Interrupt
from tiny import line_batches
from torch.nn import functional as F
from upper.moded import KINDS, learner_of, same, weights

from callbacks import (
    Callback,
    CancelEpoch,
    Checkpoint,
    EarlyStopping,
    Order,
)


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
