"""Handlers of signals: restored after a fit, and signals to real processes."""

from __future__ import annotations

import os
import signal
import textwrap
import threading

import pytest
import torch
from processes import start
from upper.probes import press

from callbacks import on
from learner import Data


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
