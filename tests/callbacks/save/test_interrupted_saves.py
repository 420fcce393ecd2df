"""Checkpoints of fits that a signal, a killed worker or an error ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from resumed import Crash, differs, in_memory, make, outcome, shuffled
from torch.utils.data import DataLoader, Dataset

from callbacks import on
from learner import Data
from learner.engine import interrupt
from learner.files import checkpoint_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def fail(learn):
    raise ConnectionError("the data server does not answer")


def press(number: signal.Signals, at: int, valid: bool = False):
    """Send this process a signal in a batch, counted over the whole training, or in validation."""

    @on("after_loss")
    def send(learn):
        if valid is not learn.training and learn.global_step == at:
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize("data", [shuffled, in_memory])
@pytest.mark.parametrize(("at", "valid"), [(0, False), (2, False), (5, False), (7, True), (13, False)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_in_mid_epoch_and_the_run_resumes_exactly(tmp_path, number, at, valid, data):
    if data is in_memory and valid:
        at = 5
    learn = make(tmp_path, data=data, every="1 epoch")
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        learn.fit(4, callbacks=[press(number, at, valid)])
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert names(tmp_path), "nothing was saved"
    assert checkpoint_file.read(tmp_path / names(tmp_path)[-1])["clock"]["global_step"] == learn.global_step
    again = make(tmp_path, data=data, every="1 epoch")
    again.fit(4, resume="must")
    found = outcome(again)
    expected = make(data=data)
    expected.fit(4)
    assert differs(found, outcome(expected)) == []


def test_a_second_ctrl_c_in_the_save_leaves_the_previous_file(tmp_path, monkeypatch):
    write = checkpoint_file.fill

    def interrupted(file, contents):
        write(file, contents)
        if contents["clock"]["global_step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint_file, "fill", interrupted)
    monkeypatch.setattr(interrupt, "SAME", 0.0)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, data=in_memory).fit(1)
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]
    assert not list(tmp_path.glob("*.tmp"))


class Dies(Dataset):
    """Data that kills its worker at the tenth item, the first time."""

    def __init__(self, flag: Path):
        self.flag = flag

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 10 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)  # so the learner is waiting for the worker when it dies
        return torch.full((3,), index / 24.0), torch.full((1,), index / 8.0)


def test_a_killed_worker_leaves_a_checkpoint_of_the_last_complete_batch(tmp_path):
    def data():
        return Data(DataLoader(Dies(tmp_path / "flag"), batch_size=2, num_workers=1))

    def learner():
        learn = make(tmp_path / "run", data=data, every="1 epoch")
        learn.remove_callbacks(learn.callbacks.early_stopping)
        return learn

    learn = learner()
    with pytest.raises((RuntimeError, OSError, EOFError)) as caught:
        learn.fit(1)
    assert "a loader worker died" in "".join(caught.value.__notes__)
    assert learn.global_step > 0
    assert names(tmp_path / "run") == [f"step-{learn.global_step:09}.pt"]
    again = learner()
    again.fit(1, resume="must")
    whole = make(data=data)
    whole.remove_callbacks(whole.callbacks.early_stopping)
    whole.fit(1)
    assert differs(dict(again.model.state_dict()), dict(whole.model.state_dict())) == []


def test_an_error_inside_a_batch_saves_nothing_new(tmp_path):
    @on("after_loss")
    def fail(learn):
        if learn.global_step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(tmp_path, data=in_memory, every="1 epoch").fit(1, callbacks=[fail])
    assert names(tmp_path) == []


def test_a_fit_after_a_failed_one_continues_in_its_folder(tmp_path):
    learn = make(tmp_path, data=in_memory)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[Crash(3)])
    learn.fit(1)
    assert learn.global_step == 3 + 5
