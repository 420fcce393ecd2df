"""OverfitBatch and ValidateEvery: one batch again and again, validation in mid-epoch."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    GradientAccumulation,
    Metrics,
    OverfitBatch,
    Recorder,
    ShortEpoch,
    ValidateEvery,
    ZeroGrad,
    on,
)
from learner import Data, Learner

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


def test_a_validation_leaves_a_short_epoch_short(make_learner):
    data = Data(line_batches(10), line_batches(5))
    learn = make_learner(data=data, callbacks=[ShortEpoch(4), ValidateEvery("2 steps")])
    learn.fit(2)
    assert learn.global_step == 8
    assert [row["step"] for row in learn.history.validations] == [2, 4, 6, 8]


def test_an_update_at_the_end_of_the_pass_is_validated_once(make_learner):
    data = Data(lambda: iter(line_batches(6)), line_batches(2))  # without a length
    learn = make_learner(data=data, callbacks=[GradientAccumulation(4), ValidateEvery("1 step")])
    learn.fit(2)
    rows = [(row["step"], row["epoch"]) for row in learn.history.validations]
    assert rows == [(1, 0), (2, 0), (3, 1), (4, 1)]


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
