"""A fit that keeps no weights prints this once per process, and only if somebody can see it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import learner
from callbacks import Checkpoint, Progress
from callbacks.record import unsaved_weights
from learner import Learner

DATA = (torch.ones(4, 1), torch.ones(4, 1))


@pytest.fixture(autouse=True)
def first_fit(monkeypatch):
    """Nothing has been trained in this process."""
    monkeypatch.setattr(unsaved_weights, "known", set())


def make(*callbacks, data=DATA, **options) -> Learner:
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return Learner(nn.Linear(1, 1), data, nn.functional.mse_loss, optimizer, callbacks, **options)


def test_the_first_fit_that_keeps_nothing_prints_how_to_keep_the_weights(capsys):
    for _ in range(3):
        make().fit(1)
    shown = capsys.readouterr()
    assert shown.err == "the weights are in memory only; learn.save('model.pt') keeps them\n"
    assert "memory" not in shown.out


def test_nothing_is_printed_where_weights_are_saved_or_nothing_is_shown(tmp_path, capsys):
    make(Checkpoint(tmp_path / "run")).fit(1)
    quiet = make()
    quiet.remove_callbacks(Progress)
    quiet.fit(1)
    quiet.save(tmp_path / "model.pt")
    make().fit(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tool", ["lr_find", "cost", "check", "sandbox"])
def test_a_fit_in_a_sandbox_prints_no_hint_and_the_next_fit_does(tool, capsys):
    learn = make()
    if tool == "sandbox":
        with learn.sandbox():
            learn.fit(1)
    else:
        getattr(learn, tool)()
    assert "memory" not in capsys.readouterr().err
    learn.fit(1)
    assert "memory" in capsys.readouterr().err


def test_cross_validation_prints_no_hint_and_the_next_fit_does(capsys):
    learner.cross_validate(lambda data: make(data=data), DATA, k=2, n_epochs=1)
    assert "memory" not in capsys.readouterr().err
    make().fit(1)
    assert "memory" in capsys.readouterr().err
