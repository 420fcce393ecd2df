"""The rate is lowered as torch's scheduler lowers it."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from callbacks import Callback, Checkpoint, Order, ParamScheduler, ReduceLROnPlateau, on
from callbacks.schedule.annealers import constant


class Given(Callback):
    """A callback that measures given numbers."""

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
@pytest.mark.parametrize("patience", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_rates_equal_those_of_torch(make_learner, patience, cooldown, seed):
    values = [random.Random(seed).random() for _ in range(40)]
    values[7] = float("nan")
    settings = {"factor": 0.5, "cooldown": cooldown, "min_lr": 1e-4}
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience, threshold=0.05, threshold_mode="abs", eps=0, **settings
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


def test_a_group_whose_rate_is_below_the_least_one_keeps_it_as_in_torch(make_learner):
    learn = make_learner(callbacks=[Given([1.0] * 4), ReduceLROnPlateau("given", patience=0, min_lr=0.02)])
    learn.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.001})
    rates = []

    @on("after_epoch", order=Order.SAVE)
    def look(learn):
        rates.append([group["lr"] for group in learn.optimizer.param_groups])

    learn.fit(4, [look])
    assert rates == [[0.1, 0.001], *[[0.02, 0.001]] * 3]


@pytest.mark.parametrize(("patience", "epoch"), [(0, 1), (1, 2), (3, 4)])
def test_patience_is_the_number_of_bad_epochs_that_are_allowed(make_learner, patience, epoch):
    learn = make_learner(callbacks=[Given([1.0] * 6), ReduceLROnPlateau("given", patience=patience)])
    rates = rates_of(learn)
    assert rates[epoch - 1] == 0.1
    assert rates[epoch] == pytest.approx(0.01)


def test_the_defaults_equal_those_of_torch(make_learner):
    values = [1.0] * 30
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    theirs, expected = lr_scheduler.ReduceLROnPlateau(optimizer), []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    assert expected[-1] < 0.01
    assert rates_of(make_learner(callbacks=[Given(values), ReduceLROnPlateau("given")])) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 1.0}, "between 0 and 1"),
        ({"factor": 0}, "between 0 and 1"),
        ({"patience": -1}, "0 or more"),
        ({"cooldown": -1}, "0 or more"),
        ({"min_lr": -1}, "at least 0"),
        ({"mode": "up"}, "'min', 'max'"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ReduceLROnPlateau(**settings)


def test_a_result_that_is_not_measured_is_refused(make_learner):
    with pytest.raises(ValueError, match="valid_loss"):
        make_learner(callbacks=[ReduceLROnPlateau("valid_los")]).fit(1)


def test_another_that_changes_the_rate_is_refused(make_learner):
    learn = make_learner(callbacks=[ReduceLROnPlateau(), ParamScheduler({"lr": constant(0.1)})])
    with pytest.raises(ValueError, match="both change lr"):
        learn.fit(1)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_rates_of_all_groups_equal_those_of_torch_down_to_the_lowest(make_learner, mode):
    values = [random.Random(5).random() for _ in range(30)]
    settings = {"factor": 0.3, "min_lr": 1e-3, "mode": mode}

    def groups(model):
        weight, bias = model.parameters()
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.01}], lr=0.1)

    optimizer = groups(nn.Linear(1, 1))
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=1, threshold=0.0, threshold_mode="abs", eps=0, **settings
    )
    expected, found = [], []
    for value in values:
        theirs.step(value)
        expected.append([group["lr"] for group in optimizer.param_groups])
    given = Given(values)
    given.measures = {"given": None}
    learn = make_learner(callbacks=[given, ReduceLROnPlateau("given", patience=1, **settings)])
    learn.optimizer = groups(learn.model)

    @on("after_epoch", order=Order.SAVE)
    def look(learn):
        found.append([group["lr"] for group in learn.optimizer.param_groups])

    learn.fit(30, [look])
    assert found == [pytest.approx(rates) for rates in expected]
    assert found[-1] == [1e-3, 1e-3]


@pytest.mark.parametrize("at", [4, 11, 17])
def test_an_interrupted_fit_resumes_with_the_same_rates(make_learner, tmp_path, at):
    values = [random.Random(3).random() for _ in range(8)]

    def make(folder):
        ours = ReduceLROnPlateau("given", patience=0, cooldown=1, factor=0.5)
        return make_learner(callbacks=[Given(values), ours, Checkpoint(tmp_path / folder, "1 step")])

    @on("before_step")
    def fail(learn):
        if learn.global_step == at:
            raise ZeroDivisionError

    whole = make("whole")
    whole.fit(8)
    with pytest.raises(ZeroDivisionError):
        make("resumed").fit(8, [fail])
    learn = make("resumed")
    learn.fit(8, resume="must")
    assert list(learn.history.steps["lr"]) == list(whole.history.steps["lr"])
    assert learn.callbacks[ReduceLROnPlateau].state_dict() == whole.callbacks[ReduceLROnPlateau].state_dict()
    assert torch.equal(learn.model.weight, whole.model.weight)
    assert whole.callbacks[ReduceLROnPlateau].n_reduced > 1
