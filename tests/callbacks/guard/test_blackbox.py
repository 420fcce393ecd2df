"""BlackBox: the step that raised an error is on disk, and the error is unchanged."""

from __future__ import annotations

import math
import random

import numpy
import pytest
import torch
from boxed import boxed, read
from torch import nn

from callbacks import Callback, CancelEpoch, Order, StopOnNaN, on
from callbacks.core import draws
from callbacks.guard.blackbox import FILE, BlackBox


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "box"


@pytest.mark.parametrize(
    "event", ["before_batch", "after_pred", "after_loss", "before_backward", "before_step", "after_batch"]
)
def test_an_error_in_a_step_leaves_a_file_and_a_note_that_names_it(folder, event):
    @on(event, order=Order.SAVE)
    def fail(learn):
        if learn.batch_idx == 1:
            raise ZeroDivisionError("of mine")

    learn = boxed(folder, callbacks=[fail])
    with pytest.raises(ZeroDivisionError, match="of mine") as caught:
        learn.fit(2)
    assert f"the step is saved in {folder / FILE}: `learner replay` runs it again" in caught.value.__notes__
    kept = read(folder / FILE)
    assert kept["clock"]["batch_idx"] == 1
    assert kept["error"] == {"type": "ZeroDivisionError", "message": "of mine"}
    assert torch.equal(kept["batch"][0], learn.data.train[1][0])
    assert kept["is_updated"] is (event == "after_batch")


def test_a_bad_loss_leaves_the_weights_with_which_the_step_began(folder):
    learn = boxed(folder, values=[1.0, math.nan], callbacks=[StopOnNaN()])
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    kept = read(folder / FILE)
    assert all(torch.equal(kept["model"][name], each) for name, each in learn.model.named_parameters())
    assert not kept["is_updated"]


def test_an_error_in_the_update_itself_is_reported_as_such(folder):
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            raise ZeroDivisionError

    learn = boxed(folder)
    learn.optimizer = Fails(learn.model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert read(folder / FILE)["is_updated"]


@pytest.mark.parametrize("event", ["before_train", "after_train", "before_validate", "after_epoch"])
def test_an_error_outside_of_a_step_leaves_nothing(folder, event):
    @on(event, order=Order.SAVE)
    def fail(learn):
        raise ZeroDivisionError

    learn = boxed(folder, callbacks=[fail])
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert not folder.exists()


def test_an_error_in_fetching_or_placing_a_later_batch_leaves_nothing(folder):
    def short(values):
        yield values[0]
        raise ZeroDivisionError

    learn = boxed(folder)
    values = learn.data.train
    learn.data.train = lambda: short(values)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    learn.data.train = [values[0], object()]
    with pytest.raises(TypeError):
        learn.fit(1)
    assert not folder.exists()


def test_a_good_fit_a_cancel_and_a_later_error_without_a_fit_leave_nothing(folder):
    class Leave(Callback):
        def after_loss(self, learn):
            raise CancelEpoch

    learn = boxed(folder)
    learn.fit(2)
    learn.fit(1, callbacks=[Leave()])
    learn.model = nn.Linear(7, 7)
    with pytest.raises(RuntimeError):
        learn.predict(torch.ones(2, 1))
    assert not folder.exists()


def test_a_file_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    (tmp_path / "box").write_text("in the way")
    learn = boxed(tmp_path / "box", values=[math.nan], callbacks=[StopOnNaN()])
    with pytest.raises(FloatingPointError) as caught:
        learn.fit(1)
    assert any("the step could not be saved in" in note for note in caught.value.__notes__)


def test_what_a_file_cannot_hold_is_left_out_and_named(folder):
    class Strange:
        def to(self, device):
            return self

    learn = boxed(folder, values=[math.nan], callbacks=[StopOnNaN()])
    inputs, targets = learn.data.train[0]
    learn.data.train = [{"x": inputs, "y": targets, "path": [Strange(), 3]}]
    learn.data.split = lambda batch: ((batch["x"],), batch["y"])
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    kept = read(folder / FILE)
    assert kept["batch"]["path"] == [None, 3]
    assert torch.equal(kept["batch"]["y"], targets)
    assert len(kept["left_out"]) == 1
    assert kept["left_out"][0].startswith("batch.path[0] is of type")


@pytest.mark.parametrize("draw", [None, random.random, numpy.random.rand])
def test_random_states_that_steps_draw_from_are_those_of_the_step_s_beginning(folder, draw):
    states = []

    class Draw(Callback):
        order = Order.TRANSFORM

        def before_batch(self, learn):
            states.append(draws.take())
            torch.rand(3)
            if draw is not None:
                draw()
            if learn.batch_idx == 14:
                raise ZeroDivisionError

    learn = boxed(folder, values=[1.0] * 20, callbacks=[Draw()])
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    kept = read(folder / FILE)["random"]
    assert torch.equal(kept["torch"], states[-1]["torch"])
    assert ("python" in kept) is (draw is random.random)
    assert ("numpy" in kept) is (draw is numpy.random.rand)
    assert not any(
        draws.differ(name, kept[name], states[-1][name]) for name in ("python", "numpy") if name in kept
    )


def test_a_box_does_not_change_the_run(folder, tmp_path):
    one, other = boxed(folder, dropout=True), boxed(folder, dropout=True)
    other.remove_callbacks(other.callbacks[BlackBox])
    for learn in (one, other):
        torch.manual_seed(1)
        learn.fit(3)
    for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("given", [None, "", 3])
def test_a_folder_that_is_not_a_name_is_refused(given):
    with pytest.raises(TypeError, match="pass the name of a folder"):
        BlackBox(given)
