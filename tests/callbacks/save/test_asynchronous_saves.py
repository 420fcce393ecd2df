"""Checkpoints that a thread writes while training continues."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed import in_memory, make
from torch import Tensor, nn

from callbacks import Callback, Checkpoint, LearnerWarning, on
from learner import Data, Learner
from learner.files import checkpoint_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def same(one: Any, other: Any) -> bool:
    """Are two contents equal, apart from clocks?"""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = set(one) - {"seconds", "kinds"}
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_each_file_is_that_of_a_save_during_which_training_waits(tmp_path):
    for folder, asynchronous in (("now", False), ("later", True)):
        options = {"best": "valid_loss", "keep": None, "asynchronous": asynchronous}
        make(tmp_path / folder, data=in_memory, **options).fit(2)
    assert names(tmp_path / "later") == names(tmp_path / "now")
    for name in names(tmp_path / "now"):
        now, later = (checkpoint_file.read(tmp_path / folder / name) for folder in ("now", "later"))
        for key in ("model", "optimizer", "random", "fit", "loaders", "gradients", "clock"):
            assert same(now[key], later[key]), f"{name}: {key}"


def test_a_run_resumes_from_each_file_with_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole", data=in_memory, keep=None, asynchronous=True)
    whole.fit(2)
    for name in ("step-000000003.pt", "step-000000005.pt"):
        part = tmp_path / name.removesuffix(".pt")
        part.mkdir()
        (tmp_path / "whole" / name).rename(part / name)
        resumed = make(part, data=in_memory, asynchronous=True)
        resumed.fit(2, resume="must")
        assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))
        assert resumed.history.steps["train_loss"] == whole.history.steps["train_loss"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1000, 1000), nn.Linear(1000, 1000)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))


def test_what_changes_after_the_call_is_not_in_the_file(tmp_path):
    learn = Learner(Tied(), Data.from_tensors(torch.ones(4, 1000), torch.ones(4, 1000)), nn.MSELoss())
    before = {name: each.clone() for name, each in learn.model.state_dict().items()}
    now = learn.save(tmp_path / "now.pt")
    calls = []
    saving = learn.async_save(tmp_path / "later.pt", then=lambda: calls.append(threading.current_thread()))
    with torch.no_grad():
        for each in learn.model.parameters():
            each.zero_()
    saving.wait()
    assert calls
    assert calls[0] is not threading.current_thread()
    learn.load(tmp_path / "later.pt")
    assert same(dict(learn.model.state_dict()), before)
    size = (tmp_path / "later.pt").stat().st_size  # tied weights are in it once
    assert abs(size - now.stat().st_size) < 1000


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full whenever the function that a test assigns is true for the path."""
    write, when = checkpoint_file.write, {}

    def _full(path, contents, **options):
        if when["full"](path):
            raise OSError(28, "No space left on device")
        write(path, contents, **options)

    monkeypatch.setattr(checkpoint_file, "write", _full)
    return when


def test_a_full_disk_is_reported_at_the_next_save(tmp_path, full_disk):
    full_disk["full"] = lambda path: path.name == "step-000000003.pt"
    learn = make(tmp_path, data=in_memory, asynchronous=True)
    with pytest.warns(LearnerWarning, match=r"step-000000003.pt was not written.*No space left"):
        learn.fit(1)
    assert names(tmp_path) == ["step-000000002.pt", "step-000000004.pt", "step-000000005.pt"]


def test_a_disk_that_stays_full_ends_the_training(tmp_path, full_disk):
    full_disk["full"] = lambda path: path.name > "step-000000002.pt"
    learn = make(tmp_path, data=in_memory, asynchronous=True)
    with (
        pytest.warns(LearnerWarning, match="is tried again"),
        pytest.raises(OSError, match="No space") as caught,
    ):
        learn.fit(1)
    assert "2 in a row" in "".join(caught.value.__notes__)
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]


def test_a_fit_that_fails_ends_when_its_file_is_complete(tmp_path):
    @on("after_loss")
    def fail(learn):
        if learn.global_step == 3:
            raise ConnectionError("the data server does not answer")

    learn = make(tmp_path, data=in_memory, callbacks=(fail,), asynchronous=True)
    with pytest.raises(ConnectionError):
        learn.fit(1)
    assert "step-000000003.pt" in names(tmp_path)
    assert [each.name for each in threading.enumerate() if each.name.startswith("save")] == []


class KeepsALock(Callback):
    state = ("kept",)

    def before_fit(self, learn):
        self.kept = threading.Lock()


def test_a_state_that_cannot_be_saved_is_refused_at_once(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(KeepsALock(),), asynchronous=True)
    with pytest.raises(TypeError, match="kept"):
        learn.fit(1)
    assert learn.global_step == 1


def test_asynchronous_is_true_or_false(tmp_path):
    with pytest.raises(
        TypeError, match=r"Checkpoint\(asynchronous='yes'\): asynchronous must be True or False"
    ):
        Checkpoint(tmp_path, asynchronous="yes")
