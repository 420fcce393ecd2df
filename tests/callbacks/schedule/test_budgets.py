"""Budgets, short epochs, one batch again and again, validation in mid-epoch."""

from __future__ import annotations

import signal
import time
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    Callback,
    Checkpoint,
    Metrics,
    Order,
    OverfitBatch,
    Recorder,
    ShortEpoch,
    StopAfter,
    ValidateEvery,
    ZeroGrad,
    on,
)
from learner import Data, Learner

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
def test_passes_end_after_so_many_batches(make_learner, size, n_train, n_valid):
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
def test_one_of_the_passes_can_be_left_whole(make_learner, which, seen):
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
    with pytest.raises(ValueError, match=r"ShortEpoch\(.*write a share between 0 and 1"):
        ShortEpoch(size)


def test_an_unknown_pass_is_refused():
    with pytest.raises(ValueError, match="'train', 'valid' or 'both'"):
        ShortEpoch(1, on="validation")  # type: ignore[arg-type]


def test_a_share_of_data_of_unknown_length_is_refused(make_learner):
    data = Data(lambda: iter(line_batches(4)), line_batches(1))
    learn = make_learner(data=data, callbacks=[ShortEpoch(0.5)])
    with pytest.raises(ValueError, match=r"Write a number of batches, as ShortEpoch\(100\)"):
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


# OverfitBatch ---------------------------------------------------------------------------------------------


def test_it_trains_on_the_first_batch_as_a_loop_by_hand_does(make_learner):
    learn = make_learner(4, callbacks=[OverfitBatch()])
    model = nn.Linear(1, 1)
    model.load_state_dict(learn.model.state_dict())
    learn.fit(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = line_batches(4)[0]
    for _ in range(12):
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(learn.model.weight, model.weight)


def test_a_change_in_place_of_the_batch_is_not_kept(make_learner):
    @on("before_batch")
    def spoil(learn):
        if learn.training:
            learn.inputs[0].mul_(2)
            seen.append(learn.inputs[0].clone())

    seen = []
    make_learner(callbacks=[OverfitBatch(), spoil]).fit(1)
    assert torch.equal(seen[0], 2 * line_batches()[0][0])
    assert all(torch.equal(seen[0], each) for each in seen)


def test_validation_sees_its_own_data(make_learner):
    learn = make_learner(4, lr=1e-9, callbacks=[OverfitBatch()])
    assert learn.fit(1)[0]["valid_loss"] == pytest.approx(make_learner(4, lr=1e-9).fit(1)[0]["valid_loss"])


# ValidateEvery --------------------------------------------------------------------------------------------


def with_noise(*callbacks) -> Learner:
    """A learner whose training draws from every stream that validation could disturb."""
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    whole = TensorDataset(x, x.sum(1, keepdim=True))
    held_out = TensorDataset(x + 1, x.sum(1, keepdim=True))
    data = Data(DataLoader(whole, 4, shuffle=True), DataLoader(held_out, 8))
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return Learner(model, data, F.mse_loss, optimizer, callbacks, defaults=(ZeroGrad, Metrics, Recorder))


def test_training_continues_as_if_there_had_been_no_validation():
    one = with_noise(ValidateEvery("3 steps"))
    one.fit(2)
    other = with_noise()  # which sets the seed
    other.fit(2)
    first, second = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert list(one.history.steps["train_loss"]) == list(other.history.steps["train_loss"])
    assert one.history["train_loss"] == other.history["train_loss"]
    assert one.history["valid_loss"] == other.history["valid_loss"]


def test_the_history_has_each_validation():
    learn = with_noise(ValidateEvery("4 steps"))
    learn.fit(2)
    rows = [(row["step"], row["epoch"]) for row in learn.history.validations]
    assert rows == [(4, 0), (8, 0), (10, 0), (12, 1), (16, 1), (20, 1)]
    assert learn.history.validations[2]["valid_loss"] == learn.history[0]["valid_loss"]
    assert len(learn.history) == 2


@pytest.mark.parametrize("training", [True, False])
def test_a_validation_that_ctrl_c_ends_is_not_recorded(training):
    learn = with_noise(ValidateEvery("4 steps"))

    @on("after_pred")
    def interrupt(learn):
        if learn.training is training and learn.global_step == (3 if training else 4):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, callbacks=[interrupt])
    assert learn.global_step == 4
    assert [row["step"] for row in learn.history.validations] == []


def test_what_is_measured_is_what_validate_gives_at_that_step():
    learn, found = with_noise(ValidateEvery("4 steps")), []

    @on("after_step")
    def look(learn):
        if learn.global_step == 4:
            found.append(learn.validate()["valid_loss"])

    learn.fit(1, callbacks=[look])
    assert learn.history.validations[0]["valid_loss"] == found[0]


def test_the_results_of_the_epoch_stay_clean():
    learn, seen = with_noise(ValidateEvery("4 steps")), []

    @on("after_train")
    def look(learn):
        seen.append(set(learn.results))

    learn.fit(1, callbacks=[look])
    assert seen == [{"train_loss", "lr"}]


def test_validations_are_kept_with_the_history():
    learn = with_noise(ValidateEvery("4 steps"))
    learn.fit(1)
    snapshot = learn.snapshot()
    learn.fit(1)
    learn.restore(snapshot)
    assert [row["step"] for row in learn.history.validations] == [4, 8, 10]


def test_epochs_and_no_validation_data_are_refused(make_learner):
    with pytest.raises(ValueError, match="each epoch ends with a validation"):
        ValidateEvery("1 epoch")
    with pytest.raises(ValueError, match="no validation data"):
        make_learner(valid=False, callbacks=[ValidateEvery("1 step")]).fit(1)
