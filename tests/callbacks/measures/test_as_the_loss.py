"""Metrics that read predictions and targets as the loss does: probabilities, one-hot and ignored targets."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from callbacks import F1, LearnerWarning, Perplexity, Precision, Recall, TopKAccuracy, accuracy
from learner import Data, Learner

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(31, 3, generator=DRAW)
CLASSES = (X[:, 0] * 2).round().long().clamp(-1, 1) + 1
YES = (X[:, :1] > 0.5).float()
SGD = partial(torch.optim.SGD, lr=0.1)


def net(n_outputs, last=None):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, n_outputs), *([] if last is None else [last]))


def learner_of(model, loss, targets, *metrics):
    batches = list(zip(X.split(6), targets.split(6), strict=True))
    return Learner(model, Data(batches, list(batches)), loss, SGD, metrics=metrics)


def brier(preds, targets):
    return (preds - targets).square().mean()


@pytest.mark.parametrize(
    "loss", [nn.BCELoss(), F.binary_cross_entropy, partial(F.mse_loss, reduction="sum"), nn.HuberLoss()]
)
def test_probabilities_above_a_half_mean_yes_under_a_loss_of_probabilities(loss):
    model = net(1, nn.Sigmoid())
    found = learner_of(model, loss, YES, accuracy, F1(), Precision, Recall()).validate()
    predicted = model(X) > 0.5
    assert found["valid_accuracy"] == pytest.approx((predicted == YES).float().mean().item())
    assert found["valid_f1"] == pytest.approx(f1_score(YES, predicted))


def test_logits_above_0_mean_yes_under_a_loss_of_logits():
    model = net(1)
    found = learner_of(model, nn.BCEWithLogitsLoss(), YES, accuracy, F1()).validate()
    assert found["valid_accuracy"] == pytest.approx(((model(X) > 0) == YES).float().mean().item())
    assert found["valid_f1"] == pytest.approx(f1_score(YES, model(X) > 0))


def test_probabilities_of_classes_as_targets_are_compared_by_their_largest():
    model, targets = net(3), F.one_hot(CLASSES, 3) * 0.9 + 0.1 / 3
    found = learner_of(model, F.cross_entropy, targets, accuracy, F1("macro")).validate()
    predicted = model(X).argmax(1)
    assert found["valid_accuracy"] == pytest.approx((predicted == CLASSES).float().mean().item())
    assert found["valid_f1"] == pytest.approx(f1_score(CLASSES, predicted, average="macro"))


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, nn.BCELoss()], ids=["logits", "shares"])
def test_smoothed_binary_targets_are_compared_as_0_and_1(loss):
    model, smoothed = net(1, nn.Sigmoid() if isinstance(loss, nn.BCELoss) else None), YES * 0.9 + 0.05
    found = learner_of(model, loss, smoothed, accuracy, F1()).validate()
    assert found["valid_accuracy"] == learner_of(model, loss, YES, accuracy).validate()["valid_accuracy"] > 0
    assert found["valid_f1"] == learner_of(model, loss, YES, F1()).validate()["valid_f1"] > 0


def hinge(preds, targets):
    return (1 - preds * targets).clamp(min=0).mean()


@pytest.mark.parametrize(
    "loss", [hinge, nn.SoftMarginLoss(), nn.MSELoss()], ids=["own", "soft margin", "squares"]
)
def test_targets_of_minus_one_and_one_are_compared_by_their_signs(loss):
    model, targets = net(1), YES * 2 - 1
    found = learner_of(model, loss, targets, accuracy).validate()
    expected = ((model(X) > 0) == YES.bool()).float().mean().item()
    assert found["valid_accuracy"] == pytest.approx(expected)
    assert accuracy(model(X), targets).item() == pytest.approx(expected)


def test_targets_below_0_do_not_count_beside_0_and_1():
    model, targets = net(1), YES.masked_fill(torch.arange(31).unsqueeze(1) % 3 == 0, -1)
    found = learner_of(
        model, lambda preds, targets: hinge(preds, targets * 2 - 1), targets, accuracy
    ).validate()
    expected = ((model(X) > 0) == YES)[targets >= 0].float().mean().item()
    assert found["valid_accuracy"] == pytest.approx(expected)
    assert accuracy(model(X), targets).item() == pytest.approx(expected)


def own(preds, targets):
    return F.cross_entropy(preds, targets)


@pytest.mark.parametrize(
    ("loss", "number"),
    [(F.cross_entropy, -100), (nn.CrossEntropyLoss(ignore_index=1), 1), (own, -100)],
    ids=["default", "a class", "own"],
)
def test_targets_that_the_loss_ignores_do_not_count_for_the_accuracy(loss, number):
    targets = CLASSES.masked_fill(torch.arange(31) % 3 == 0, number)
    model = net(3)
    counted = targets != number
    right = (model(X).argmax(1) == targets)[counted].float().mean().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # of a loss that divides by targets
        found = learner_of(model, loss, targets, accuracy).validate()
    assert found["valid_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("number", [-100, 1])
def test_targets_that_the_loss_ignores_count_for_no_metric_of_classes(number):
    targets = CLASSES.masked_fill(torch.arange(31) % 3 == 0, number)
    model, counted = net(3), targets != number
    metrics = [F1("micro"), Recall("macro"), TopKAccuracy(2), Perplexity()]
    found = learner_of(model, nn.CrossEntropyLoss(ignore_index=number), targets, *metrics).validate()
    left = learner_of(model, F.cross_entropy, targets, *metrics)
    left.data = Data(left.data.train, [(X[counted], targets[counted])])
    assert found == pytest.approx(left.validate())
    assert found["valid_perplexity"] == pytest.approx(math.exp(found["valid_loss"]))


SQUARE = torch.arange(40).reshape(10, 4) % 4  # as many positions as classes


def by_position(preds, targets):
    return F.cross_entropy(preds.flatten(0, -2), targets.flatten())


class ClassesSecond(nn.Module):
    def forward(self, scores):
        return scores.movedim(-1, 1)


@pytest.mark.parametrize(
    "metric", [accuracy, F1("macro", ignore_index=-100), TopKAccuracy(2, ignore_index=-100), Perplexity()]
)
def test_classes_in_the_last_dimension_are_found(metric):
    numbers = torch.arange(62).reshape(31, 2)
    targets = (numbers % 3).masked_fill(numbers % 5 == 0, -100)
    model = net(6, nn.Unflatten(1, (2, 3)))
    second = learner_of(nn.Sequential(model, ClassesSecond()), F.cross_entropy, targets, metric).validate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # of a loss that divides by targets
        last = learner_of(model, by_position, targets, metric).validate()
    del second["valid_loss"], last["valid_loss"]
    assert last == pytest.approx(second)


def share_right(preds, targets):
    return accuracy(preds.movedim(-1, 1), targets)


def square_learner(loss, metric):
    return Learner(
        nn.Embedding(4, 4), Data([(SQUARE, SQUARE)], [(SQUARE, SQUARE)]), loss, SGD, metrics=[metric]
    )


@pytest.mark.parametrize(
    "metric",
    [accuracy, F1("macro"), TopKAccuracy(2), Perplexity()],
    ids=["accuracy", "f1", "top_k_accuracy", "perplexity"],
)
def test_classes_that_may_be_two_dimensions_raise_one_warning(metric):
    learn = square_learner(by_position, metric)
    with pytest.warns(LearnerWarning, match="the classes may be dimension 1 or the last one") as caught:
        learn.fit(2)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("loss", "metric"),
    [
        (F.cross_entropy, accuracy),  # it takes dimension 1
        (by_position, Perplexity(class_dim=-1)),
        (by_position, share_right),
    ],
    ids=["known loss", "class_dim", "own function"],
)
def test_a_dimension_that_is_known_raises_no_warning(loss, metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        square_learner(loss, metric).fit(1)


def test_probabilities_under_a_loss_of_the_user_raise_one_warning():
    learn = learner_of(net(1, nn.Sigmoid()), brier, YES, accuracy, F1())
    learn.data = Data(learn.data.train)
    with pytest.warns(LearnerWarning, match=r"probabilities \(sigmoid\), and accuracy, f1 cannot") as caught:
        learn.fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("last", "loss", "metrics"),
    [
        (nn.Sigmoid(), nn.BCELoss(), [accuracy]),
        (nn.Sigmoid(), brier, [brier]),
        (None, lambda preds, targets: F.binary_cross_entropy_with_logits(preds, targets), [accuracy]),
    ],
    ids=["known loss", "own metric", "logits"],
)
def test_other_metrics_raise_no_warning(last, loss, metrics):
    learn = learner_of(net(1, last), loss, YES, *metrics)
    learn.data = Data(learn.data.train)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)
