"""Losses of users and models: the weight of each batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from ground.joined_losses import (
    CASES,
    N,
    X,
    batches_of,
    joined,
    learner_of,
    numbers,
    partly,
)
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, LogRMSE, Metrics, on
from learner import Data, Learner

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:lr is 0"),
    pytest.mark.filterwarnings("ignore:size_average and reduce"),
]


def tokens_of(preds, targets):
    """A user's loss that is a mean over tokens."""
    kept = targets != 0
    return F.cross_entropy(preds, targets, reduction="none")[kept].mean()


def test_a_function_sets_the_weight_of_a_batch():
    weight = Metrics(weight=lambda learn: (learn.targets != 0).sum())
    _, targets, _ = CASES["cross entropy, another ignored"]
    batches = batches_of(targets, [5, 4, 3])
    learn = Learner(nn.Linear(4, 4).double(), Data(batches), tokens_of, callbacks=[weight])
    right = tokens_of(learn.model(X), targets).item()
    assert learn.validate(batches)["valid_loss"] == pytest.approx(right)


def test_a_weight_that_is_not_a_function_is_refused():
    with pytest.raises(ValueError, match=r"Metrics\(weight=3\): pass a function of the learner"):
        Metrics(weight=3)


class OwnSum(nn.Module):
    reduction = "sum"

    def forward(self, preds, targets):
        return (preds - targets).abs().pow(1.5).sum()


def own_sum(preds, targets, reduction="mean"):
    losses = (preds - targets).abs().pow(1.5)
    return losses.sum() if reduction == "sum" else losses.mean()


@pytest.mark.parametrize("loss_func", [OwnSum(), partial(own_sum, reduction="sum")])
def test_a_users_loss_that_names_a_sum_is_added_up(loss_func):
    batches = batches_of(X, [5, 4, 3])
    model = nn.Linear(4, 4).double()
    found = Learner(model, Data(batches), loss_func).validate(batches)["valid_loss"]
    with torch.no_grad():
        assert found == pytest.approx(loss_func(model(X), X).item())


class OwnLoss(nn.MSELoss):
    def forward(self, preds, targets):
        return (preds - targets).square().sum(1).mean()


@pytest.mark.parametrize("way", ["subclass of a loss", "callback", "subclass of the learner"])
def test_a_loss_that_is_computed_in_another_way_is_weighted_by_items(way):
    class Twice(Callback):
        def compute_loss(self, learn):
            learn.loss_grad = 2 * learn.loss_func(learn.preds, learn.targets) / len(learn.targets)

    class TwiceLearner(Learner):
        def compute_loss(self):
            Twice().compute_loss(self)

    loss_func = OwnLoss() if way == "subclass of a loss" else nn.MSELoss(reduction="sum")
    kind = TwiceLearner if way == "subclass of the learner" else Learner
    callbacks = [Twice()] if way == "callback" else []
    model = nn.Linear(4, 4).double()
    batches = batches_of(X, [5, 7])
    found = kind(model, Data(batches), loss_func, callbacks=callbacks).validate(batches)["valid_loss"]
    factor = 1 if way == "subclass of a loss" else 2
    with torch.no_grad():
        assert found == pytest.approx(factor * (model(X) - X).square().sum(1).mean().item())


def test_log_rmse_prints_the_root_of_the_same_mean(capsys):
    learn = learner_of("mse", [5, 4, 3], LogRMSE("1 epoch"))
    learn.fit(1)
    shown = float(capsys.readouterr().out.split("RMSE: ")[1].split()[0])
    assert shown == pytest.approx(math.sqrt(learn.results["train_loss"]))


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor


class Writer(nn.Module):
    """A language model that computes its own loss over the labels, or over those that follow."""

    def __init__(self, shift):
        super().__init__()
        self.table, self.shift = nn.Embedding(7, 7), shift

    def forward(self, input_ids, labels):
        logits = self.table(input_ids)
        scores = logits[:, : logits.shape[1] - self.shift]
        return Output(logits, F.cross_entropy(scores.flatten(0, 1), labels[:, self.shift :].flatten()))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("sizes", [[12], [5, 4, 3], [1] * 12])
def test_the_own_loss_of_a_language_model_is_weighted_by_its_labels(shift, sizes):
    ids = numbers(7, N, 5)
    labels = partly(ids)
    model = Writer(shift)
    batches = [
        {"input_ids": one, "labels": other}
        for one, other in zip(ids.split(sizes), labels.split(sizes), strict=True)
    ]
    found = Learner(model, Data(batches)).validate(batches)["valid_loss"]
    assert found == pytest.approx(model(ids, labels).loss.item(), rel=1e-5)


def test_a_mean_resumes_in_the_middle_of_a_pass():
    states = []

    @on("after_batch")
    def keep(learn):
        states.append(learn.callbacks.metrics.state_dict())

    learn = learner_of("cross entropy, all", [5, 4, 3], keep)
    right = learn.validate()["valid_loss"]
    metrics = Metrics()
    metrics.load_state_dict(states[1])
    measured = metrics.under_way["valid"]["loss"]
    assert len(measured["values"]) == len(measured["weights"]) == 2
    assert right == pytest.approx(joined("cross entropy, all", learn))
