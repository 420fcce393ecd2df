"""Snapshots, sandboxes and validations in the middle of a batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ground.replaced import (
    assert_same,
    at,
    doubles,
    learner_of,
    line,
    swap_model,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW

from callbacks import (
    CancelBatch,
    GradientClip,
    MixUp,
    Order,
    WeightNoise,
    When,
    on,
)
from learner import Data

# Snapshots


def test_a_snapshot_that_is_restored_in_mid_batch_is_not_undone_by_noise():
    kept: dict = {}

    def keep(learn):
        kept.update(snapshot=learn.snapshot(), weight=learn.model.weight.item())

    def restore(learn):
        learn.restore(kept["snapshot"])
        weights.clear()
        raise CancelBatch

    weights: list[float] = []
    learn = learner_of(
        line(),
        WeightNoise(0.1, seed=0),
        at("after_batch", 0, 1, keep),
        at("after_loss", 1, 1, restore),
        on("after_backward", name="look")(lambda learn: weights.append(learn.model.weight.item())),
    )
    learn.fit(2)
    assert weights[0] == kept["weight"]


def test_a_snapshot_of_noisy_weights_keeps_those_without_noise():
    def fitted(*callbacks):
        learn = learner_of(line(), WeightNoise(0.1, seed=0), *callbacks)
        learn.fit(2)
        return learn.model.state_dict()

    trip = at("after_backward", 1, 1, lambda learn: learn.restore(learn.snapshot()), order=Order.PREPARE)
    early = at("before_batch", 1, 1, lambda learn: learn.restore(learn.snapshot()))
    assert_same(fitted(trip), fitted())
    assert_same(fitted(early), fitted())


def test_a_validation_in_mid_batch_leaves_the_noise():
    def fitted(*callbacks):
        learn = learner_of(line(), WeightNoise(0.1, seed=0), *callbacks, data=Data(doubles(), doubles()))
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at("before_batch", 1, 1, lambda learn: learn.validate())), fitted())


def test_a_validation_in_the_middle_of_a_batch_does_not_change_a_window():
    def fitted(*callbacks):
        data = Data(doubles(), doubles())
        learn = learner_of(line(), When(GradientClip(1e-3), start="1 step"), *callbacks, data=data)
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at("before_backward", 1, 1, lambda learn: learn.validate())), fitted())


@pytest.mark.parametrize("event", ["before_batch", "after_pred"])
def test_a_validation_in_mid_batch_leaves_its_loss_mixed(event):
    def fitted(*callbacks):
        learn = learner_of(line(), MixUp(seed=0), *callbacks, data=Data(doubles(), doubles()))
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at(event, 1, 1, lambda learn: learn.validate())), fitted())


def test_a_batch_after_one_that_was_cancelled_is_mixed_no_more_than_its_inputs():
    def cancel(learn):
        if learn.training and learn.batch_idx == 1:
            raise CancelBatch

    used: list[int] = []
    n_mixed: list[bool] = []

    def count(preds, targets):
        used.append(1)
        return F.mse_loss(preds, targets)

    @on("after_pred", name="look")
    def look(learn):
        used.clear()
        n_mixed.append(learn.inputs[0] is not learn.batch[0])

    ok: list[bool] = []
    check = on("after_batch", name="check")(lambda learn: ok.append(len(used) == 1 + n_mixed[-1]))
    learn = learner_of(
        line(), MixUp(seed=1, p=0.5), on("after_pred", name="cancel")(cancel), look, check, loss_func=count
    )
    learn.fit(20)
    assert all(ok)
    assert len(set(n_mixed)) == 2


def test_a_snapshot_of_another_optimizer_is_refused_before_anything_changes():
    learn = learner_of(line(), optimizer=partial(Adam, lr=0.1))
    snapshot = learn.snapshot()
    learn.fit(1)
    before, learn.optimizer = learn.model.weight.item(), AdamW(learn.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="from another optimizer"):
        learn.restore(snapshot)
    assert learn.model.weight.item() == before


def test_a_snapshot_of_other_groups_is_refused_before_anything_changes():
    learn = learner_of(line())
    snapshot = learn.snapshot()
    learn.fit(1)
    before = learn.model.weight.item()
    learn.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="other parameter groups"):
        learn.restore(snapshot)
    assert learn.model.weight.item() == before


def test_a_sandbox_restores_what_was_replaced_in_it():
    learn = learner_of(line())
    before = learn.model, learn.optimizer, learn.loss_func, learn.data
    with learn.sandbox():
        swap_model(learn)
        learn.loss_func, learn.data = F.l1_loss, Data(doubles()[:1])
        learn.fit(1)
    assert (learn.model, learn.optimizer, learn.loss_func, learn.data) == before
