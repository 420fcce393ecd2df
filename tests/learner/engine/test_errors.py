"""An error in a fit keeps its type, gets notes on its place, and leaves a usable learner."""

from __future__ import annotations

import contextlib
import sys
import traceback

import pytest
import torch
from tiny import line_batches, notes
from torch import nn
from torch.utils.data import DataLoader, Dataset

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
    Order,
    Recorder,
    StopOnNaN,
    ZeroGrad,
    on,
)
from learner import Data


class Probe(Callback):
    """Raise an error in one event of one batch."""

    order = Order.REPORT

    def __init__(self, error: BaseException, batch_idx: int = 1):
        self.error, self.batch_idx = error, batch_idx

    def after_batch(self, learn):
        if learn.training and learn.batch_idx == self.batch_idx:
            raise self.error


class Unreadable(Dataset):
    """Ten items, of which one cannot be read."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 6:
            raise OSError("cannot read")
        return torch.ones(1), torch.ones(1)


def test_an_error_in_a_hook_keeps_its_type_and_gets_a_note_on_the_place(make_learner):
    learn = make_learner(callbacks=[Probe(ZeroDivisionError("by zero"))])
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        learn.fit(2)
    assert caught.value.args == ("by zero",)
    text = notes(caught.value)
    assert "in callback Probe.after_batch" in text
    assert "at epoch 0/2, batch 1/3, train" in text
    assert learn.error is caught.value


def test_an_error_in_a_callback_from_a_function_names_the_function(make_learner):
    @on("before_step")
    def divide(learn):
        1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError) as caught:
        make_learner(callbacks=[divide]).fit(1)
    assert "in callback divide.before_step" in notes(caught.value)


def test_an_error_in_an_operation_of_a_callback_names_the_callback(make_learner):
    class Broken(Callback):
        def step(self, learn):
            raise KeyError("momentum")

    with pytest.raises(KeyError) as caught:
        make_learner(callbacks=[Broken()]).fit(1)
    assert "in callback Broken.step" in notes(caught.value)


def test_an_error_in_cleanup_does_not_mask_the_first_one(make_learner):
    class Untidy(Callback):
        def cleanup_fit(self, learn):
            raise OSError("cannot close")

    cleaned = []

    class Tidy(Callback):
        order = Order.PREPARE

        def cleanup_fit(self, learn):
            cleaned.append(True)

    with pytest.raises(ZeroDivisionError) as caught:
        make_learner(callbacks=[Probe(ZeroDivisionError()), Tidy(), Untidy()]).fit(1)
    assert "then, in callback Untidy.cleanup_fit: OSError: cannot close" in notes(caught.value)
    assert cleaned == [True]


def test_an_error_in_cleanup_alone_is_raised(make_learner):
    class Untidy(Callback):
        def cleanup_fit(self, learn):
            raise OSError("cannot close")

    learn = make_learner(callbacks=[Untidy()])
    with pytest.raises(OSError, match="cannot close") as caught:
        learn.fit(1)
    assert "in callback Untidy.cleanup_fit" in notes(caught.value)
    assert isinstance(learn.error, OSError)


@pytest.mark.parametrize(
    ("kind", "event", "span"),
    [
        (CancelFit, "after_fit", "a fit"),
        (CancelEpoch, "before_fit", "an epoch"),
        (CancelEpoch, "after_fit", "an epoch"),
        (CancelTrain, "before_validate", "a training pass"),
        (CancelValidate, "before_train", "a validation pass"),
        (CancelBatch, "before_epoch", "a batch, before after_batch"),
        (CancelStep, "after_loss", "before_step"),
        (CancelBatch, "after_batch", "a batch, before after_batch"),
    ],
)
def test_a_cancel_outside_its_span_is_an_error(make_learner, kind, event, span):
    @on(event)
    def stray(learn):
        raise kind

    text = rf"{kind.__name__} was raised by stray\.{event}, where it cancels nothing: raise it in {span}\."
    with pytest.raises(RuntimeError, match=text) as caught:
        make_learner(callbacks=[stray]).fit(1)
    assert isinstance(caught.value.__cause__, kind)


def test_an_out_of_memory_error_names_the_batch_and_frees_the_frames(make_learner):
    class Greedy(nn.Linear):
        def forward(self, inputs):
            held.append(None)
            raise MemoryError("none left")

    held: list[None] = []
    learn = make_learner(model=Greedy(1, 1))
    with pytest.raises(MemoryError) as caught:
        learn.fit(1)
    assert "the batch was a tuple of 2 (a tensor of shape (4, 1)" in notes(caught.value)
    assert "smaller batch_size" in notes(caught.value)
    inner = traceback.walk_tb(caught.value.__traceback__)
    assert all("inputs" not in frame.f_locals for frame, _ in inner if frame.f_code.co_name == "forward")


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_error_in_the_data_set_names_the_batch_and_the_items(make_learner, n_workers):
    loader = DataLoader(Unreadable(), batch_size=4, num_workers=n_workers)
    learn = make_learner(data=Data(loader), valid=False)
    with pytest.raises(OSError, match="cannot read") as caught:
        learn.fit(1)
    text = notes(caught.value)
    assert "fetching batch 1/3" in text
    if n_workers == 0:
        assert "the items [4, 5, 6, 7]" in text


def test_a_dead_loader_worker_is_reported(make_learner):
    loader = DataLoader(Suicidal(), batch_size=4, num_workers=1)
    with pytest.raises(RuntimeError, match="worker") as caught:
        make_learner(data=Data(loader), valid=False).fit(1)
    assert "a loader worker died, perhaps out of memory" in notes(caught.value)
    assert "fetching batch 0/2" in notes(caught.value)


class Suicidal(Dataset):
    """The kernel kills the worker that reads it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


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
    assert "in layer the model, Linear (in_features=1), given input of shape (2, 7)" in notes(caught.value)
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
