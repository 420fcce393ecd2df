"""Ctrl-C and SIGTERM, in real processes where it matters."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import sys
import time
import warnings

import pytest
import torch
from tiny import notes
from upper.probes import press

from callbacks import Callback, CancelBatch, CancelEpoch, CancelTrain, CancelValidate, Checkpoint, Compile, on
from learner.engine import interrupt


def test_ctrl_c_ends_the_batch_cleans_up_and_leaves_a_usable_learner(make_learner, capfd):
    called = []

    class Listen(Callback):
        def after_batch(self, learn):
            called.append((learn.training, learn.batch_idx))

        def after_fit(self, learn):
            called.append("after_fit")

        def cleanup_fit(self, learn):
            called.append("cleanup_fit")

    learn = make_learner(callbacks=[Listen()])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, callbacks=[press(signal.SIGINT)])
    assert called == [(True, 0), (True, 1), "after_fit", "cleanup_fit"]
    assert learn.stop_reason == "interrupted by Ctrl-C"
    assert "interrupted by Ctrl-C: ending after this batch; press again to abort" in capfd.readouterr().err
    assert torch.isfinite(learn.model.weight).all()
    done = learn.global_step
    learn.fit(2)
    assert learn.global_step == done + 6


def test_a_later_second_ctrl_c_aborts_at_once(make_learner, monkeypatch):
    after = []
    monkeypatch.setattr(interrupt, "SAME", 0.0)

    @on("after_loss")
    def press_twice(learn):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        after.append("still in the batch")

    learn = make_learner()
    with pytest.raises(KeyboardInterrupt, match="a second time"):
        learn.fit(1, callbacks=[press_twice])
    assert after == []
    learn.fit(1)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
    ],
    ids=lambda numbers: "-".join(number.name for number in numbers),
)
def test_two_signals_at_once_end_and_save_the_batch_like_one(make_learner, tmp_path, numbers):
    @on("after_loss")
    def send(learn):
        if learn.global_step == 1:
            for number in numbers:
                os.kill(os.getpid(), number)

    learn = make_learner(callbacks=[Checkpoint(tmp_path, "9 epochs"), send])
    with pytest.raises(SystemExit if signal.SIGTERM in numbers else KeyboardInterrupt) as caught:
        learn.fit(3)
    assert learn.global_step == 2
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step-000000002.pt"]
    if signal.SIGTERM in numbers:
        assert caught.value.code == 143


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_that_is_forked_during_a_fit_ends_by_sigterm_and_ignores_ctrl_c(make_learner):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))

    class Forks(Callback):
        def before_fit(self, learn):
            process.start()
            os.kill(process.pid, signal.SIGINT)
            process.join(0.2)
            assert process.is_alive()
            process.terminate()
            process.join(60)

    make_learner(callbacks=[Forks()]).fit(1)
    assert process.exitcode == -signal.SIGTERM


def test_sigterm_never_aborts_however_often_it_is_sent(make_learner, monkeypatch):
    monkeypatch.setattr(interrupt, "SAME", 0.0)

    @on("after_step")
    def send(learn):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)

    @on("cleanup_fit")
    def send_again(learn):
        os.kill(os.getpid(), signal.SIGTERM)

    learn = make_learner(callbacks=[send, send_again])
    with pytest.raises(SystemExit, match="143"):
        learn.fit(2)
    assert (learn.global_step, learn.stop_reason) == (1, "interrupted by SIGTERM")


class Gone(io.TextIOBase):
    """A stream whose reader has exited."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


class Closed(io.StringIO):
    """A stream that is closed."""

    def __init__(self):
        super().__init__()
        self.close()


@pytest.mark.parametrize("make_stream", [Gone, Closed, lambda: None])
def test_a_signal_ends_a_fit_that_cannot_print(make_learner, tmp_path, monkeypatch, make_stream):
    monkeypatch.setattr(sys, "stderr", make_stream())
    learn = make_learner(callbacks=[Checkpoint(tmp_path, "9 epochs"), press(signal.SIGTERM)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SystemExit, match="143"):
            learn.fit(3)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["step-000000002.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt("again"), SystemExit(3), GeneratorExit(), OSError(28)])
def test_every_callback_cleans_up_even_if_another_raises_an_error(make_learner, error):
    cleaned = []

    class First(Callback):
        def before_fit(self, learn):
            self.lr = learn.optimizer.param_groups[0]["lr"]
            learn.optimizer.param_groups[0]["lr"] = 0.5

        def cleanup_fit(self, learn):
            learn.optimizer.param_groups[0]["lr"] = self.lr
            cleaned.append("first")

    @on("cleanup_fit")
    def fails(learn):
        raise error

    @on("cleanup_fit")
    def last(learn):
        cleaned.append("last")
        if isinstance(error, SystemExit):
            raise ValueError("of the last one")

    learn = make_learner(callbacks=[First(), fails, last])
    with pytest.raises(ValueError if isinstance(error, SystemExit) else type(error)) as caught:
        learn.fit(1)
    assert cleaned == ["last", "first"]
    assert learn.optimizer.param_groups[0]["lr"] == 0.1
    if isinstance(error, SystemExit):
        assert "then, in callback fails.cleanup_fit: SystemExit: 3" in notes(caught.value)
    learn.remove_callbacks(fails, last)
    learn.fit(1)


def test_ctrl_c_while_a_callback_cleans_up_leaves_the_others_to_clean_up(make_learner, monkeypatch):
    monkeypatch.setattr(interrupt, "SAME", 0.0)

    @on("cleanup_fit")
    def impatient(learn):
        os.kill(os.getpid(), signal.SIGINT)

    learn = make_learner(callbacks=[Compile("eager"), press(signal.SIGINT), impatient])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learn.fit(2)
    assert isinstance(learn.model, torch.nn.Linear)
    learn.remove_callbacks(impatient)


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("kind", [CancelBatch, CancelEpoch, CancelTrain])
def test_ctrl_c_ends_and_saves_a_fit_whose_batches_are_all_cancelled(make_learner, tmp_path, kind, valid):
    class Cancel(Callback):
        def after_backward(self, learn):
            if learn.epoch:
                raise kind

    def make(folder: str):
        return make_learner(valid=valid, callbacks=[Cancel(), Checkpoint(tmp_path / folder, "9 epochs")])

    @on("before_backward")
    def press_once(learn):
        if learn.epoch == 1 and learn.batch_idx == 0:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = make("resumed")
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(4, callbacks=[press_once])
    assert interrupted.epoch == 1, "no further epoch was begun"
    learn, whole = make("resumed"), make("whole")
    learn.fit(4, resume="must")
    whole.fit(4)
    assert torch.equal(learn.model.weight, whole.model.weight)
    assert list(learn.history["epoch"]) == [0, 1, 2, 3]
    if valid and kind is not CancelEpoch:
        assert learn.history["valid_loss"] == whole.history["valid_loss"]


def test_ctrl_c_in_a_validation_that_is_cancelled_ends_the_fit_after_the_epoch(make_learner):
    @on("after_loss")
    def press_and_cancel(learn):
        if not learn.training:
            os.kill(os.getpid(), signal.SIGINT)
            raise CancelValidate

    learn = make_learner(callbacks=[press_and_cancel])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    assert (learn.epoch, learn.global_step) == (0, 3)


def test_ctrl_c_in_a_batch_that_is_cancelled_starts_no_further_batch(make_learner):
    begun = []

    @on("before_batch")
    def count(learn):
        begun.append((learn.epoch, learn.batch_idx))

    @on("after_loss")
    def press_and_cancel(learn):
        os.kill(os.getpid(), signal.SIGINT)
        raise CancelBatch

    with pytest.raises(KeyboardInterrupt):
        make_learner(valid=False, callbacks=[count, press_and_cancel]).fit(2)
    assert begun == [(0, 0)]
