"""The rate is lowered as torch's scheduler lowers it."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from callbacks import Callback, Order, ParamScheduler, ReduceLROnPlateau
from callbacks.annealers import constant


class Given(Callback):
    """Measures the numbers that it is given."""

    measures: ClassVar = {"given": "min"}

    def __init__(self, values):
        super().__init__()
        self.values = values

    def after_train(self, learn):
        learn.results["given"] = self.values[learn.epoch]


def rates_of(learn) -> list[float]:
    """The rate after each epoch."""
    rates = []

    class Look(Callback):
        order = Order.SAVE

        def after_epoch(self, learn):
            rates.append(learn.optimizer.param_groups[0]["lr"])

    learn.fit(len(learn.callbacks[Given].values), [Look()])
    return rates


@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_rates_are_torchs(make_learner, patience, cooldown, seed):
    values = [random.Random(seed).random() for _ in range(40)]
    values[7] = float("nan")
    settings = {"factor": 0.5, "cooldown": cooldown, "min_lr": 1e-4}
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience - 1, threshold=0.05, threshold_mode="abs", eps=0, **settings
    )
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = ReduceLROnPlateau("given", patience=patience, min_delta=0.05, **settings)
    learn = make_learner(callbacks=[Given(values), ours])
    assert rates_of(learn) == pytest.approx(expected)
    assert ours.n_reduced > 0
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 1.0}, "between 0 and 1"),
        ({"factor": 0}, "between 0 and 1"),
        ({"patience": 0}, "at least 1"),
        ({"cooldown": -1}, "at least 0"),
        ({"min_lr": -1}, "at least 0"),
        ({"mode": "up"}, "'min' and 'max'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ReduceLROnPlateau(**settings)


def test_a_result_that_nobody_measures_is_refused(make_learner):
    with pytest.raises(ValueError, match="valid_loss"):
        make_learner(callbacks=[ReduceLROnPlateau("valid_los")]).fit(1)


def test_another_that_changes_the_rate_is_refused(make_learner):
    learn = make_learner(callbacks=[ReduceLROnPlateau(), ParamScheduler({"lr": constant(0.1)})])
    with pytest.raises(ValueError, match="both change lr"):
        learn.fit(1)
