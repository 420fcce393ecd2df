"""An error in a fit keeps its type, gets notes on its place, and leaves a usable learner."""

from __future__ import annotations

import traceback

import pytest
import torch
from tiny import notes
from torch import nn
from torch.utils.data import DataLoader, Dataset
from upper.probes import Probe

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    Order,
    on,
)
from learner import Data


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
    """Data whose worker is killed by the kernel when it reads an item."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
