"""Budgets, short epochs, one batch again and again, validation in mid-epoch."""

from __future__ import annotations

import time

import pytest
import torch
from tiny import line_batches

from callbacks import (
    Callback,
    Checkpoint,
    Metrics,
    Order,
    Recorder,
    ShortEpoch,
    StopAfter,
    ZeroGrad,
    on,
)
from learner import Data

# StopAfter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "n_steps"),
    [
        ("4 steps", 4),
        ("1e1 samples", 3),
        ("12 samples", 3),
        ("13 samples", 4),
        ("1 epoch", 3),
        ("9 steps", 9),
    ],
)
def test_a_fit_ends_when_its_budget_is_used_up(make_learner, budget, n_steps):
    learn = make_learner(callbacks=[StopAfter(budget)])
    learn.fit(10)
    assert learn.global_step == n_steps
    assert learn.stop_reason == f"the budget of {budget} is used up"


def test_a_budget_that_ends_with_an_epoch_leaves_it_its_validation(make_learner):
    learn = make_learner(callbacks=[StopAfter("3 steps")])
    learn.fit(2)
    assert len(learn.history) == 1
    assert "valid_loss" in learn.history[0]


def test_a_budget_that_lasts_for_the_whole_fit_stops_nothing(make_learner):
    learn = make_learner(callbacks=[StopAfter("6 steps")])
    learn.fit(2)
    assert learn.stop_reason is None
    assert "valid_loss" in learn.history[1]


def test_each_fit_has_the_whole_budget(make_learner):
    learn = make_learner(callbacks=[StopAfter("4 steps")])
    learn.fit(10)
    learn.fit(10)
    assert learn.global_step == 8


def test_a_time_is_counted_from_the_start_of_the_fit(make_learner, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    @on("before_batch")
    def pass_time(learn):
        now[0] += 60

    learn = make_learner(valid=False, callbacks=[pass_time, StopAfter("5 minutes")])
    now[0] += 1e6
    learn.fit(10)
    assert learn.global_step == 5


def test_time_that_was_used_before_an_interruption_counts(make_learner, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = StopAfter("10 seconds")
    learn = make_learner()
    stop.before_fit(learn)
    now[0] += 4
    kept = stop.state_dict()
    other = StopAfter("10 seconds")
    now[0] += 1e6
    other.before_fit(learn)
    other.load_state_dict(kept)
    assert other.seconds == 4


@pytest.mark.parametrize("budget", ["2", "0 steps", "1.5 steps", "2 days", "-1 hours", 100, None])
def test_an_invalid_budget_is_refused(budget):
    with pytest.raises(ValueError, match=r"StopAfter\(budget=.*\): write a positive number and a unit"):
        StopAfter(budget)


# ShortEpoch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "n_train", "n_valid"), [(2, 2, 2), (0.3, 3, 2), (0.01, 1, 1), (99, 10, 5)])
def test_passes_end_after_the_given_number_of_batches(make_learner, size, n_train, n_valid):
    counts = Counts()
    data = Data(line_batches(10), line_batches(5))
    learn = make_learner(data=data, callbacks=[ShortEpoch(size), counts])
    learn.fit(2)
    assert counts.seen == [n_train, n_valid] * 2
    assert counts.reported == counts.seen
    assert learn.global_step == 2 * n_train


class Counts(Callback):
    def __init__(self):
        super().__init__()
        self.seen, self.reported = [], []

    def before_train(self, learn):
        self.seen.append(0)

    before_validate = before_train

    def after_batch(self, learn):
        self.seen[-1] += 1

    def after_train(self, learn):
        self.reported.append(learn.n_batches)
        assert learn.batch_idx + 1 == learn.n_batches

    after_validate = after_train


@pytest.mark.parametrize(("which", "seen"), [("train", [2, 5]), ("valid", [10, 2])])
def test_one_of_the_passes_can_stay_complete(make_learner, which, seen):
    counts = Counts()
    data = Data(line_batches(10), line_batches(5))
    make_learner(data=data, callbacks=[ShortEpoch(2, on=which), counts]).fit(1)
    assert counts.seen == seen


def test_a_short_epoch_is_a_fit_on_the_first_batches(make_learner):
    short = make_learner(10, callbacks=[ShortEpoch(3)])
    plain = make_learner(data=Data(line_batches(10)[:3], line_batches(2)))
    assert short.fit(3)["train_loss"] == plain.fit(3)["train_loss"]
    assert torch.equal(short.model.weight, plain.model.weight)


def test_outside_of_a_fit_all_data_are_seen(make_learner):
    learn = make_learner(callbacks=[ShortEpoch(1)])
    learn.fit(1)
    whole = make_learner(defaults=(ZeroGrad, Metrics, Recorder))
    whole.restore(learn.snapshot())
    assert learn.validate() == whole.validate()
    assert learn.get_preds()[0].shape == (8, 1)


@pytest.mark.parametrize("size", [0, -1, 1.0, 1.5, 0.0, True, "0.1", None, float("nan")])
def test_an_invalid_length_is_refused(size):
    with pytest.raises(ValueError, match=r"ShortEpoch\(.*pass a share between 0 and 1"):
        ShortEpoch(size)


def test_an_unknown_pass_is_refused():
    with pytest.raises(ValueError, match="'train', 'valid' or 'both'"):
        ShortEpoch(1, on="validation")  # type: ignore[arg-type]


def test_a_share_of_data_of_unknown_length_is_refused(make_learner):
    data = Data(lambda: iter(line_batches(4)), line_batches(1))
    learn = make_learner(data=data, callbacks=[ShortEpoch(0.5)])
    with pytest.raises(ValueError, match=r"Pass a number of batches, such as ShortEpoch\(100\)"):
        learn.fit(1)
    learn = make_learner(data=data, callbacks=[ShortEpoch(3)])
    learn.fit(1)
    assert learn.global_step == 3


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
def test_an_interrupted_short_epoch_resumes_with_the_same_bits(make_learner, tmp_path, at):
    def make(folder):
        callbacks = [Checkpoint(tmp_path / folder, "1 step"), ShortEpoch(2), StopAfter("5 steps")]
        return make_learner(data=Data(line_batches(4), line_batches(3)), callbacks=callbacks)

    @on("after_batch", order=Order.SAVE)
    def end(learn):
        counts.append(learn.global_step)
        if len(counts) == at:
            raise ZeroDivisionError

    counts = []
    whole, learn = make("whole"), make("resumed")
    whole.fit(4)
    with pytest.raises(ZeroDivisionError):
        learn.fit(4, callbacks=[end])
    learn = make("resumed")
    learn.fit(4, resume="auto")
    assert torch.equal(learn.model.weight, whole.model.weight)
    assert [row | {"seconds": 0} for row in learn.history] == [row | {"seconds": 0} for row in whole.history]
    assert learn.global_step == whole.global_step == 5
