"""After an error or a cancel the next fit trains in full."""

from __future__ import annotations

import contextlib
import sys
import traceback

import pytest
import torch
from tiny import line_batches, notes
from upper.probes import Probe

from callbacks import (
    EVENTS,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    DevicePlacement,
    EarlyStopping,
    Metrics,
    Recorder,
    StopOnNaN,
    ZeroGrad,
    on,
)
from learner import Data


def test_after_an_error_the_next_fit_trains_its_full_number_of_steps(make_learner):
    learn = make_learner(callbacks=[Probe(ValueError("once"))])
    learn.model.eval()
    with pytest.raises(ValueError, match="once"):
        learn.fit(1)
    assert not learn.model.training
    assert all(parameter.grad is None for parameter in learn.model.parameters())
    learn.callbacks.probe.batch_idx = -1
    done = learn.global_step
    learn.fit(2)
    assert learn.global_step == done + 6
    assert learn.error is None


def test_gradients_left_by_a_cancelled_fit_are_not_stepped(make_learner):
    @on("before_step")
    def leave(learn):
        raise CancelFit

    learn, fresh = make_learner(), make_learner()
    learn.fit(1, callbacks=[leave])
    assert learn.model.weight.grad is not None
    learn.fit(1)
    fresh.fit(1)
    assert torch.equal(learn.model.weight, fresh.model.weight)


def test_a_cancelled_batch_leaves_no_gradient_to_the_next(make_learner):
    @on("after_backward")
    def void(learn):
        if learn.batch_idx == 0:
            raise CancelBatch

    learn = make_learner(n_batches=2, valid=False, callbacks=[void])
    reference = make_learner(data=Data(line_batches(2)[1:]))
    learn.fit(1)
    reference.fit(1)
    assert torch.equal(learn.model.weight, reference.model.weight)
    assert learn.global_step == 1


def test_an_error_in_validate_and_predict_has_its_place_and_calls_no_cleanup_fit(make_learner):
    cleaned = []

    class Clean(Callback):
        def cleanup_fit(self, learn):
            cleaned.append(True)

    learn = make_learner(callbacks=[Clean()])
    with pytest.raises(RuntimeError) as caught:
        learn.predict(torch.ones(2, 7))
    assert "in the model, Linear (in_features=1), given input of shape (2, 7)" in notes(caught.value)
    with pytest.raises(RuntimeError):
        learn.validate([(torch.ones(2, 7), torch.ones(2, 1))])
    assert not cleaned
    learn.fit(1)
    assert cleaned == [True]


def test_the_traceback_shows_the_notes_to_the_user(make_learner):
    learn = make_learner(callbacks=[Probe(ZeroDivisionError("by zero"))])
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    shown = "".join(traceback.format_exception(learn.error))
    assert shown.rstrip().endswith("at epoch 0/1, batch 1/3, train, global step 2")


def test_a_learner_keeps_no_traceback_of_a_fit_without_errors(learn):
    learn.fit(1)
    assert learn.error is None
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    "kind", [CancelFit, CancelEpoch, CancelTrain, CancelValidate, CancelBatch, CancelStep, ValueError, None]
)
def test_whatever_ends_a_fit_the_next_one_trains_its_full_number_of_steps(make_learner, event, kind):
    """With all defaults, history, modes and steps of the second fit are those of a first one."""

    @on(event)
    def end(learn):
        if kind is None:
            learn.stop("enough")
        else:
            raise kind

    defaults = [ZeroGrad, DevicePlacement, StopOnNaN, Metrics, Recorder]
    learn = make_learner(defaults=defaults, callbacks=[EarlyStopping(patience=9)])
    with contextlib.suppress(ValueError, RuntimeError):
        learn.fit(2, callbacks=[end])
    steps, rows = learn.global_step, len(learn.history)
    learn.fit(2)
    assert (learn.global_step, len(learn.history)) == (steps + 6, rows + 2)
    assert not learn.model.training  # as the end of every fit leaves it
    assert not learn.fitting
    assert learn.error is None


def test_a_stray_cancel_becomes_the_error_and_leaves_no_gradient(make_learner):
    @on("after_backward")
    def stray(learn):
        raise CancelStep

    learn = make_learner(callbacks=[stray])
    with pytest.raises(RuntimeError, match="CancelStep was raised by stray") as caught:
        learn.fit(1)
    assert learn.error is caught.value
    assert isinstance(caught.value.__cause__, CancelStep)
    assert learn.model.weight.grad is None


def test_a_callback_may_validate_while_it_cleans_up(make_learner):
    found = []

    @on("cleanup_fit")
    def look(learn):
        found.append(learn.validate())

    learn = make_learner(callbacks=[look])
    learn.fit(1)
    learn.validate()
    assert len(found) == 1


def test_a_worker_death_reported_while_notes_are_added_becomes_the_error_with_the_place(make_learner):
    class Noted(Exception):
        def add_note(self, note):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    @on("after_batch")
    def fail(learn):
        raise Noted

    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        make_learner().fit(1, callbacks=[fail])
    assert "a loader worker died" in notes(caught.value)
    assert "at epoch 0/1" in notes(caught.value)
