"""FAULTS D: signals, in real processes where it matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from callbacks import Callback, on
from learner import Data

ROOT = Path(__file__).parents[2]


def press(number: signal.Signals, event: str = "after_loss"):
    """A plug-in that sends this process a signal in the second batch."""

    @on(event)
    def send(learn):
        if learn.batch_idx == 1:
            os.kill(os.getpid(), number)

    return send


def test_case_47_ctrl_c_ends_the_batch_cleans_up_and_leaves_a_usable_learner(make_learner, capfd):
    heard = []

    class Listen(Callback):
        def after_batch(self, learn):
            heard.append((learn.training, learn.batch_idx))

        def after_fit(self, learn):
            heard.append("after_fit")

        def cleanup_fit(self, learn):
            heard.append("cleanup_fit")

    learn = make_learner(callbacks=[Listen()])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, callbacks=[press(signal.SIGINT)])
    assert heard == [(True, 0), (True, 1), "after_fit", "cleanup_fit"]
    assert learn.stop_reason == "interrupted by Ctrl-C"
    assert "Ctrl-C: ending this batch; again to abort" in capfd.readouterr().err
    assert torch.isfinite(learn.model.weight).all()
    done = learn.global_step
    learn.fit(2)
    assert learn.global_step == done + 6


def test_case_48_a_second_ctrl_c_aborts_at_once(make_learner):
    after = []

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


@pytest.mark.parametrize("event", ["before_fit", "before_batch", "before_validate", "after_epoch"])
def test_case_49_ctrl_c_is_handled_wherever_it_comes(make_learner, event):
    @on(event)
    def send(learn):
        os.kill(os.getpid(), signal.SIGINT)

    learn = make_learner()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, callbacks=[send])
    learn.fit(1)


def test_case_50_handlers_are_put_back_and_those_of_the_user_stay(make_learner):
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


def test_case_52_a_fit_outside_of_the_main_thread_touches_no_signal(make_learner):
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
def test_case_49_and_50_a_script_ends_as_its_caller_expects_without_workers_left(
    tmp_path, number, code, workers
):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("{workers}", str(workers))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert "cleaned after interrupted by" in out, error
    assert process.returncode in (code, 130) if number == signal.SIGINT else process.returncode == code, error
    assert error.count("ending this batch") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_stopping_in_the_middle_closes_the_loaders_iterator(make_learner):
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
