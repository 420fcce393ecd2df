"""Ctrl-C and SIGTERM, in real processes where it matters."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import textwrap
import threading
import warnings

import pytest
import torch
from processes import start
from tiny import notes

from callbacks import Callback, CancelBatch, CancelEpoch, CancelTrain, Checkpoint, Compile, on
from learner import Data
from learner.engine import interrupt


def press(number: signal.Signals, event: str = "after_loss"):
    """A callback that sends this process a signal in the second batch."""

    @on(event)
    def send(learn):
        if learn.batch_idx == 1:
            os.kill(os.getpid(), number)

    return send


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
    assert "interrupted by Ctrl-C: ending after this batch; again to abort" in capfd.readouterr().err
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


def test_ctrl_c_while_handlers_are_restored_still_restores_all(make_learner, monkeypatch):
    learn, real = make_learner(), signal.signal
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def restore(number, handler):
        replaced = real(number, handler)
        if handler in before:  # the moment after one of them was restored
            os.kill(os.getpid(), signal.SIGINT)
        return replaced

    monkeypatch.setattr(signal, "signal", restore)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ctrl_c_that_the_parent_ignores_stays_ignored(make_learner):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        learn = make_learner(callbacks=[press(signal.SIGINT)])
        learn.fit(1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (learn.global_step, learn.stop_reason) == (3, None)


@pytest.mark.parametrize("event", ["before_fit", "before_batch", "before_validate", "after_epoch"])
def test_ctrl_c_is_handled_in_every_event(make_learner, event):
    @on(event)
    def send(learn):
        os.kill(os.getpid(), signal.SIGINT)

    learn = make_learner()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, callbacks=[send])
    learn.fit(1)


def test_handlers_are_restored_and_those_of_the_user_stay(make_learner):
    learn = make_learner()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []

    @on("after_loss")
    def look(learn):
        during.append(signal.getsignal(signal.SIGINT))

    learn.fit(1, callbacks=[look])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert during[0] is not before[0]

    def mine(number, frame):
        received.append(number)

    received: list[int] = []
    signal.signal(signal.SIGINT, mine)
    try:
        learn.fit(1, callbacks=[press(signal.SIGINT, "before_step")])
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert received == [signal.SIGINT]


def test_a_fit_outside_of_the_main_thread_installs_no_handler(make_learner):
    learn, failed = make_learner(), []
    before = signal.getsignal(signal.SIGINT)

    @on("after_loss")
    def look(learn):
        if signal.getsignal(signal.SIGINT) is not before:
            failed.append("handler changed")

    def work():
        try:
            learn.fit(1, callbacks=[look])
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
    assert learn.global_step == 3


SCRIPT = """
    import os, signal, sys, time, torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from callbacks import on
    from learner import Data, Learner

    class Slow(TensorDataset):
        def __getitem__(self, index):
            time.sleep(0.005)
            return super().__getitem__(index)

    @on("cleanup_fit")
    def tidy(learn):
        print("cleaned after", learn.stop_reason, flush=True)

    @on("after_batch")
    def ready(learn):
        if learn.global_step == 2:
            print("ready", flush=True)

    if __name__ == "__main__":
        loader = DataLoader(Slow(torch.rand(400, 1), torch.rand(400, 1)), batch_size=4, num_workers={workers})
        model = nn.Linear(1, 1)
        learn = Learner(model, Data(loader), nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1),
                        callbacks=[tidy, ready])
        learn.fit(100)
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_script_ends_as_its_caller_expects_without_workers_left(tmp_path, number, code, workers):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("{workers}", str(workers))))
    process = start(str(script), start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert "cleaned after interrupted by" in out, error
    assert process.returncode in (code, 130) if number == signal.SIGINT else process.returncode == code, error
    assert error.count("ending after this batch") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_stopping_in_mid_epoch_closes_the_iterator_of_the_loader(make_learner):
    closed = []

    def batches():
        try:
            for _ in range(5):
                yield torch.ones(2, 1), torch.ones(2, 1)
        finally:
            closed.append(True)

    @on("after_batch")
    def enough(learn):
        learn.stop("enough")

    make_learner(data=Data(batches), callbacks=[enough]).fit(1)
    assert closed == [True]


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

    with pytest.raises(KeyboardInterrupt):
        make("resumed").fit(4, callbacks=[press_once])
    learn, whole = make("resumed"), make("whole")
    learn.fit(4, resume="must")
    whole.fit(4)
    assert torch.equal(learn.model.weight, whole.model.weight)
    assert list(learn.history["epoch"]) == [0, 1, 2, 3]
    if valid and kind is not CancelEpoch:
        assert learn.history["valid_loss"] == whole.history["valid_loss"]
