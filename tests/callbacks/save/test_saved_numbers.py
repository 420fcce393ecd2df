"""What a checkpoint may contain, which is the best one, and which settings are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from resumed import in_memory, make

from callbacks import Callback, Checkpoint, LearnerWarning, Order, on


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def test_an_error_in_a_state_dict_names_its_callback(tmp_path):
    class Broken(Callback):
        def state_dict(self):
            raise KeyError("lost")

    learn = make(tmp_path, data=in_memory, callbacks=(Broken(),))
    with pytest.raises(KeyError) as caught:
        learn.fit(1)
    assert "in Broken.state_dict" in "".join(caught.value.__notes__)


@on("after_step")
def go_bad(learn):
    if learn.global_step == 3:
        with torch.no_grad():
            learn.model[0].weight[0, 0] = float("nan")


def test_nan_weights_are_never_written(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(go_bad,))
    with pytest.raises(FloatingPointError, match=r"step-000000003.pt was not written: '0.weight' contains"):
        learn.fit(1)
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]


def test_a_buffer_may_be_infinite_like_a_mask(tmp_path):
    learn = make(data=in_memory)
    learn.model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    learn.save(tmp_path / "mine.pt")


@on("after_step")
def spoil_bank(learn):
    if learn.global_step == 2:
        learn.model.bank.fill_(float("nan"))


def test_a_buffer_that_becomes_nan_is_reported_once(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(spoil_bank,))
    learn.model.register_buffer("bank", torch.zeros(2))
    with pytest.warns(LearnerWarning, match=r"step-000000002.pt contains NaN in 'bank'") as caught:
        learn.fit(1)
    assert sum("'bank'" in str(each.message) for each in caught) == 1


def test_a_buffer_that_was_nan_at_the_start_is_not_reported(tmp_path, recwarn):
    learn = make(tmp_path / "run", data=in_memory, callbacks=(spoil_bank,))
    learn.model.register_buffer("bank", torch.full((2,), torch.nan))
    learn.save(tmp_path / "before.pt")
    learn.fit(1)
    learn.save(tmp_path / "after.pt")
    assert not [each for each in recwarn if "contains NaN" in str(each.message)]


def test_the_best_is_kept_beside_the_latest(tmp_path):
    values = [5.0, 1.0, 3.0, 4.0, 5.0]

    @on("after_epoch", order=Order.MEASURE)
    def set_loss(learn):
        learn.results["valid_loss"] = values[learn.epoch]

    learn = make(tmp_path, data=in_memory, every="1 epoch", keep=2, best="valid_loss")
    learn.remove_callbacks(learn.callbacks.early_stopping)
    learn.fit(5, callbacks=[set_loss])
    assert names(tmp_path) == ["best-000000010.pt", "best.pt", "step-000000020.pt", "step-000000025.pt"]
    assert (tmp_path / "best.pt").samefile(tmp_path / "best-000000010.pt")
    assert (learn.callbacks[Checkpoint].best, learn.callbacks[Checkpoint].best_epoch) == (1.0, 1)
    learn.load(tmp_path / "best-000000010.pt")
    assert learn.global_step == 10


def test_the_best_of_a_resumed_run_is_that_of_all_its_epochs(tmp_path):
    options = {"data": in_memory, "every": "1 epoch", "best": "train_loss"}
    first = make(tmp_path, **options)
    first.fit(1)
    learn = make(tmp_path, **options)
    learn.callbacks[Checkpoint]._best.min_delta = 1e6  # no later result can be better
    with pytest.warns(LearnerWarning, match="planned"):
        learn.fit(2, resume="auto")
    assert learn.callbacks[Checkpoint].best == first.history[0]["train_loss"]
    assert [name for name in names(tmp_path) if name.startswith("best-")] == ["best-000000005.pt"]


def test_a_relative_folder_is_relative_to_where_the_fit_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    @on("after_batch")
    def move(learn):
        os.chdir(tmp_path / "elsewhere")

    make(Path("a folder"), data=in_memory).fit(1, callbacks=[move])
    assert names(tmp_path / "a folder")[-1] == "step-000000005.pt"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": 3}, "pass the name of a folder"),
        ({"folder": ""}, "pass the name of a folder"),
        ({"folder": "a", "keep": 0}, "the number of files to keep"),
        ({"folder": "a", "keep": True}, "the number of files to keep"),
        ({"folder": "a", "every": "often"}, "write a positive number"),
        ({"folder": "a", "best": 3}, "pass a result's name"),
        ({"folder": "a", "best": "valid_loss", "mode": "up"}, "mode must be 'min', 'max'"),
    ],
)
def test_invalid_settings_are_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Checkpoint(**arguments)


def test_a_monitored_result_that_is_not_measured_is_refused_before_the_first_step(tmp_path):
    learn = make(tmp_path, data=in_memory, best="valid_acuracy")
    with pytest.raises(ValueError, match=r"Checkpoint\(best='valid_acuracy'\): no result has that name"):
        learn.fit(1)
    assert learn.global_step == 0
