"""What is measured and recorded when parts of a fit are replaced in the middle of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ground.replaced import (
    N_BATCHES,
    Running,
    assert_same,
    at,
    doubles,
    learner_of,
    line,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import (
    ActivationStats,
    GradientFlow,
    LearnerWarning,
    Metrics,
    Order,
    Recorder,
    StopOnNaN,
    WeightUpdates,
    ZeroGrad,
    on,
)
from learner import Data, Learner

# Buffers


def test_a_buffer_that_a_bad_batch_has_replaced_is_restored():
    bad = doubles()
    bad[2] = (bad[2][0] * float("nan"), bad[2][1])
    learn = learner_of(Running(), StopOnNaN(skip=1), data=Data(bad))
    with pytest.warns(LearnerWarning, match="skipped"):
        learn.fit(1)
    model = Running()
    optimizer = SGD(model.parameters(), lr=0.1)
    for inputs, targets in [doubles()[number] for number in (0, 1, 3)]:
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(learn.model.state_dict(), model.state_dict())


# What is recorded


def test_a_parameter_that_is_replaced_in_the_middle_of_a_pass_is_measured():
    updates, flow, stats = WeightUpdates("1.weight"), GradientFlow("1.weight"), ActivationStats("1")
    model = nn.Sequential(nn.Identity(), line())

    def replace(learn):
        learn.model[1] = line()
        learn.optimizer = SGD(learn.model.parameters(), lr=0.1)

    learner_of(model, updates, flow, stats, at("before_batch", 0, 1, replace, order=Order.PREPARE)).fit(1)
    assert flow.norms.isfinite().all()
    assert stats.means.isfinite().all()
    assert len(updates.steps) == N_BATCHES


def test_which_steps_are_recorded_may_be_changed_between_fits():
    updates, flow, stats = WeightUpdates(), GradientFlow(), ActivationStats()
    for each in (updates, flow, stats):
        each.every = "2 steps"
    learner_of(line(), updates, flow, stats).fit(1)
    assert updates.steps == flow.steps == stats.steps == [2, 4]


def test_a_validation_within_a_validation_does_not_change_its_results():
    far = [(100 * inputs, targets) for inputs, targets in doubles()]

    @on("before_validate", name="look_elsewhere", order=Order.REPORT)
    def look_elsewhere(learn):
        if learn.results is learn_results[0]:
            learn.validate(far)

    learn_results: list = [None]
    note = on("after_train", name="note")(lambda learn: learn_results.__setitem__(0, learn.results))
    data = Data(doubles(), doubles())
    learn = learner_of(line(), note, look_elsewhere, data=data, optimizer=partial(SGD, lr=1e-300))
    learn.fit(1)
    assert learn.history[-1]["valid_loss"] == learner_of(line(), data=data).validate()["valid_loss"]


def test_metrics_added_in_the_middle_of_a_pass_do_not_measure_it():
    learn = learner_of(
        line(),
        at("before_batch", 0, 2, lambda learn: learn.add_callbacks(Metrics())),
        defaults=(ZeroGrad, Recorder),
    )
    learn.fit(2)
    assert "train_loss" not in learn.history[0]
    assert "train_loss" in learn.history[1]


def test_a_result_that_is_missing_is_an_error_that_lists_those_that_are_there():
    @on("after_epoch")
    def read(learn):
        learn.results["accuracy"]

    item, rate = torch.ones(1, 1), partial(SGD, lr=0.1)
    learn = Learner(nn.Linear(1, 1), (item, item), F.mse_loss, rate, [read], defaults=(ZeroGrad, Metrics))
    with pytest.raises(KeyError, match="accuracy") as caught:
        learn.fit(1)
    assert any("results so far are train_loss" in note for note in caught.value.__notes__)
