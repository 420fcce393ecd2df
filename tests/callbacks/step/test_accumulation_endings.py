"""GradientAccumulation: a window that a pass, a cancel, an error or an interrupt ends."""

from __future__ import annotations

import pytest
import torch
from fits.accumulated import are_close, batches, learner_of
from resumed import Crash

from callbacks import (
    CancelBatch,
    CancelEpoch,
    CancelTrain,
    Checkpoint,
    GradientAccumulation,
    GradientClip,
    Order,
    on,
)
from learner import Data


def test_a_pass_of_unknown_length_ends_with_the_smaller_window():
    def stream():
        yield from batches(4, 4, 4, 4, 2)

    seen = []

    @on("after_step")
    def see(learn):
        seen.append(learn.global_step)

    one = learner_of(Data(stream), GradientAccumulation(2), see)
    one.fit(2)
    other = learner_of(batches(8, 8, 2))
    other.fit(2)
    assert are_close(one, other)
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("ending", ["stop", "cancel"])
def test_a_pass_that_ends_early_steps_with_what_it_has(ending):
    @on("after_batch")
    def end(learn):
        if learn.batch_idx == 2:
            if ending == "cancel":
                raise CancelTrain
            learn.stop("enough")

    one = learner_of(batches(4, 4, 3, 4, 4), GradientAccumulation(2), end)
    one.fit(1)
    other = learner_of(batches(8, 3))
    other.fit(1)
    assert are_close(one, other)
    assert one.global_step == 2


@pytest.mark.parametrize("event", ["before_batch", "after_loss", "before_backward", "after_backward"])
def test_a_batch_that_is_cancelled_drops_its_window(event):
    @on(event)
    def leave_out(learn):
        if learn.batch_idx == 1:
            raise CancelBatch

    one = learner_of(batches(4, 4, 4, 4), GradientAccumulation(2), leave_out)
    one.fit(1)
    other = learner_of([batches(8, 8)[1]])
    other.fit(1)
    assert are_close(one, other)


def test_a_last_batch_that_is_cancelled_drops_its_window():
    @on("after_loss")
    def leave_out(learn):
        if learn.batch_idx == 3:
            raise CancelBatch

    one = learner_of(batches(4, 4, 4, 4), GradientAccumulation(2), leave_out)
    one.fit(1)
    assert one.global_step == 1


def test_a_cancelled_epoch_leaves_no_gradients():
    @on("after_batch")
    def end(learn):
        if learn.epoch == 0 and learn.batch_idx == 0:
            raise CancelEpoch

    one = learner_of(batches(4, 4), GradientAccumulation(2), end)
    one.fit(2)
    other = learner_of(batches(8))
    other.fit(1)
    assert are_close(one, other)
    assert one.global_step == 1


def test_a_fit_leaves_no_gradients_to_the_next():
    @on("after_batch")
    def fail(learn):
        raise ZeroDivisionError

    one = learner_of(batches(4, 4), GradientAccumulation(2))
    with pytest.raises(ZeroDivisionError):
        one.fit(1, callbacks=[fail])
    one.fit(1)
    other = learner_of(batches(8))
    other.fit(1)
    assert are_close(one, other)


@pytest.mark.filterwarnings("ignore:a run that is interrupted")
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("unknown", [False, True])
def test_a_fit_interrupted_inside_a_window_resumes_with_the_same_bits(tmp_path, at, unknown):
    def make(folder):
        data = batches(4, 4, 4, 3, 1)
        every = Checkpoint(folder, "1 sample")
        given = Data(lambda: iter(data)) if unknown else data
        return learner_of(given, GradientAccumulation(3), GradientClip(0.3), every)

    whole = make(tmp_path / "whole")
    whole.fit(2)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "run").fit(2, callbacks=[Crash(at)])
    learn = make(tmp_path / "run")
    learn.fit(2, resume="auto")
    pairs = zip(learn.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert learn.global_step == whole.global_step == 4


def test_an_interrupted_fit_does_not_step_what_a_checkpoint_resumes(tmp_path):
    def make():
        return learner_of(batches(4, 4, 4, 4), GradientAccumulation(4), Checkpoint(tmp_path, "1 epoch"))

    @on("before_batch", order=Order.PREPARE)
    def interrupt(learn):
        if learn.batch_idx == 1:
            learn.interrupted = "the test"

    learn = make()
    learn.fit(1, callbacks=[interrupt])
    assert learn.global_step == 0
    learn = make()
    learn.fit(1, resume="must")
    other = learner_of(batches(16))
    other.fit(1)
    assert are_close(learn, other)
