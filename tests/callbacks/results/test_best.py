"""Callbacks that compare epochs warn if no epoch can be the best, or if nothing is compared."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from callbacks import Checkpoint, EarlyStopping, LearnerWarning, ReduceLROnPlateau
from learner import Data, Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


WATCHERS = {
    "Checkpoint": lambda folder: Checkpoint(folder, best="valid_score"),
    "EarlyStopping": lambda folder: EarlyStopping("valid_score", patience=9),
    "ReduceLROnPlateau": lambda folder: ReduceLROnPlateau("valid_score"),
}


def learner_of(score, *callbacks):
    def valid_score(preds, targets):
        return torch.tensor(score)

    valid_score.name, valid_score.higher_is_better = "score", True
    sgd = partial(torch.optim.SGD, lr=0.1)
    data = Data([BATCH], [BATCH])
    return Learner(torch.nn.Linear(1, 1), data, F.mse_loss, sgd, callbacks, metrics=[valid_score])


@pytest.mark.parametrize("watcher", WATCHERS)
def test_a_result_that_is_never_a_number_raises_one_warning_per_callback(watcher, tmp_path):
    learn = learner_of(math.nan, WATCHERS[watcher](tmp_path / "run"))
    message = (
        rf"{watcher}\(\w+='valid_score'\): valid_score was not a finite .* \(it is nan\), so no epoch is"
    )
    with pytest.warns(LearnerWarning, match=message) as caught:
        learn.fit(4)
    assert len(caught) == 1


def test_one_finite_result_is_enough(tmp_path):
    learn = learner_of(1.0, *(make(tmp_path / "run") for make in WATCHERS.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(2)


def test_a_direction_without_a_result_raises_a_warning(tmp_path):
    with pytest.warns(LearnerWarning, match=r"Checkpoint\(mode='max'\) has no effect.*add best='valid_loss'"):
        Checkpoint(tmp_path, mode="max")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        Checkpoint(tmp_path)
