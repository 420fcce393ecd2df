"""Losses that take the model's output for something else raise one warning; right outputs raise none."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from sklearn.metrics import mean_absolute_error
from torch import nn
from torch.nn import functional as F

from callbacks import LearnerWarning, MixedPrecision, whole_pass
from learner import Data, Learner

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
CLASSES = (X[:, 0] > 0).long()
ONE = CLASSES.float().unsqueeze(1)
PICTURES = X.view(8, 3, 1, 1)


def net(*last, n_outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, n_outputs), *last)


def learner_of(model, loss, targets, x=X, callbacks=()):
    return Learner(model, Data([(x, targets)]), loss, partial(torch.optim.SGD, lr=0.1), callbacks)


WRONG = {
    "softmax": (lambda: net(nn.Softmax(1)), F.cross_entropy, CLASSES, "takes scores"),
    "softmax by its last dimension": (
        lambda: net(nn.Softmax(-1)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        CLASSES,
        "leave the softmax out",
    ),
    "sigmoid": (
        lambda: net(nn.Sigmoid(), n_outputs=1),
        nn.BCEWithLogitsLoss(),
        ONE,
        "or use binary_cross_entropy",
    ),
    "sigmoid that is reshaped": (
        lambda: net(nn.Sigmoid(), nn.Flatten(0), n_outputs=1),
        F.binary_cross_entropy_with_logits,
        ONE[:, 0],
        "sigmoid",
    ),
    "sigmoid for classes": (lambda: net(nn.Sigmoid()), F.cross_entropy, CLASSES, "leave the sigmoid out"),
    "sigmoid for probabilities of classes": (
        lambda: net(nn.Sigmoid()),
        nn.CrossEntropyLoss(),
        torch.full((8, 2), 0.5),
        "use binary_cross_entropy",
    ),
    "logarithms for a binary loss": (
        lambda: net(nn.LogSoftmax(1)),
        nn.BCEWithLogitsLoss(),
        F.one_hot(CLASSES).float(),
        "leave the log_softmax out",
    ),
    "never no": (
        lambda: net(nn.ReLU(), n_outputs=1),
        F.binary_cross_entropy_with_logits,
        ONE,
        r"never negative \(relu\)",
    ),
    "scores": (net, F.nll_loss, CLASSES, "or use cross_entropy"),
    "no logarithm": (lambda: net(nn.Softmax(1)), nn.NLLLoss(), CLASSES, "takes log-probabilities"),
    "divergence": (
        lambda: net(nn.Softmax(1)),
        nn.KLDivLoss(reduction="batchmean"),
        F.one_hot(CLASSES).float(),
        "takes log-probabilities",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_output_that_a_loss_takes_for_something_else_raises_one_warning(kind):
    make, loss, targets, message = WRONG[kind]
    learn = learner_of(make(), loss, targets)
    with pytest.warns(LearnerWarning, match=message) as seen:
        learn.fit(1)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)


def test_mixed_precision_hides_nothing():
    learn = learner_of(net(nn.Softmax(1)), F.cross_entropy, CLASSES, callbacks=[MixedPrecision("bf16")])
    with pytest.warns(LearnerWarning, match="leave the softmax out"):
        learn.fit(1)


class Positions(nn.Module):
    """Attention over positions, so that each row of scores adds up to one by chance of its shape."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.layer(x).flatten(2).softmax(2).unsqueeze(-1)


class Gate(nn.Module):
    """Scores that a sigmoid scales."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        scores = self.layer(x)
        return scores * scores.sigmoid()


RIGHT = {
    "scores": (net, F.cross_entropy, CLASSES, X),
    "log-probabilities": (lambda: net(nn.LogSoftmax(1)), F.nll_loss, CLASSES, X),
    "log-probabilities once more": (lambda: net(nn.LogSoftmax(1)), F.cross_entropy, CLASSES, X),
    "probabilities": (lambda: net(nn.Sigmoid(), n_outputs=1), F.binary_cross_entropy, ONE, X),
    "numbers between 0 and 1": (lambda: net(nn.Sigmoid(), n_outputs=1), F.mse_loss, ONE, X),
    "scores that are never negative": (lambda: net(nn.ReLU()), F.cross_entropy, CLASSES, X),
    "a gate": (Gate, F.cross_entropy, CLASSES, X),
    "over positions": (Positions, F.cross_entropy, CLASSES.view(8, 1, 1), PICTURES),
    "own loss": (lambda: net(nn.Softmax(1)), lambda p, t: F.cross_entropy(10 * p, t), CLASSES, X),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_an_output_that_fits_its_loss_raises_no_warning(kind):
    make, loss, targets, x = RIGHT[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learner_of(make(), loss, targets, x).fit(1)


# Shapes that a metric broadcasts ---------------------------------------------------------------------------

FLAT = X.sum(1)  # (8,), and the model returns (8, 1)


def flat_loss(preds, targets):
    return F.mse_loss(preds.squeeze(-1), targets)


def mean_error(preds, targets):
    return (preds - targets).abs().mean()


def mean_error_as_number(preds, targets):
    return float((preds - targets).abs().mean())


def squeezed_error(preds, targets):
    return (preds.squeeze(-1) - targets).abs().mean()


def share_in_order(preds, targets):
    """Compares each with each on purpose."""
    scores = preds.flatten()
    return ((scores[:, None] > scores) == (targets[:, None] > targets)).float().mean()


class Counting:
    name = "counting"

    def __init__(self):
        self.n = 0

    def __call__(self, preds, targets):
        self.n += 1
        return (preds - targets).abs().mean()


def flat_learner(metric, targets=FLAT, loss=flat_loss):
    data = Data([(X, targets)], [(X[:4], targets[:4])])
    return Learner(net(n_outputs=1), data, loss, partial(torch.optim.SGD, lr=0.1), metrics=[metric])


@pytest.mark.parametrize(
    "metric",
    [mean_error, mean_error_as_number, whole_pass(mean_error)],
    ids=["tensor", "number", "whole pass"],
)
def test_a_metric_that_compares_each_prediction_with_each_target_raises_one_warning(metric):
    learn = flat_learner(metric)
    with pytest.warns(LearnerWarning, match=r"the metric mean_error.*\(8, 1\).*to \(8, 8\)") as caught:
        learn.fit(1)
    assert len(caught) == 1
    learn.fit(1)  # the settings of the tests make a warning an error


@pytest.mark.parametrize(
    ("metric", "targets", "loss"),
    [
        (squeezed_error, FLAT, flat_loss),
        (share_in_order, FLAT, flat_loss),
        (Counting(), FLAT, flat_loss),
        (mean_error, FLAT[:, None], F.mse_loss),
        (whole_pass(mean_absolute_error), FLAT, flat_loss),
    ],
    ids=["squeezed", "on purpose", "with a state", "equal shapes", "of scikit-learn"],
)
def test_other_metrics_of_numbers_raise_no_warning(metric, targets, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        flat_learner(metric, targets, loss).fit(1)
    assert getattr(metric, "n", 1) == 1


def root_of_one_column(preds, targets):
    return (preds[:, 0] - targets).square().mean().sqrt()


@pytest.mark.parametrize(
    ("metric", "words"), [(mean_error, "broadcasts"), (root_of_one_column, "is not a mean over items")]
)
def test_a_metric_that_broadcasts_gets_only_the_warning_that_helps(metric, words):
    parts = [(X[:4], FLAT[:4]), (X[4:], FLAT[4:])]
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(net(n_outputs=1), Data(parts, parts), flat_loss, sgd, metrics=[metric])
    with pytest.warns(LearnerWarning) as found:
        learn.fit(1)
    about = [str(each.message) for each in found if "the metric" in str(each.message)]
    assert [words in each for each in about] == [True]
