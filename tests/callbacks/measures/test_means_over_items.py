"""A metric function that is not a mean over items gets one warning with the fix; a mean gets none."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import sklearn.metrics
import torch
import torchmetrics.functional
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn import functional as F
from whole import CLASSES, X, area, f1, learner_of, measured, median, root

from callbacks import LearnerWarning, Metrics
from learner import Data, Learner


def by_helper(preds, targets):
    return f1(preds, targets)


def imported(preds, targets):
    from sklearn.metrics import balanced_accuracy_score as balanced

    return balanced(targets, preds.argmax(1))


def by_attribute(preds, targets):
    return sklearn.metrics.precision_score(targets, preds.argmax(1), zero_division=0)


def power(preds, targets):
    return F.mse_loss(preds[:, 0], targets.float()) ** 0.5


def torchmetrics_f1(preds, targets):
    return torchmetrics.functional.f1_score(preds, targets, "multiclass", num_classes=2, average="macro")


class Root(nn.Module):
    name = "root"

    def forward(self, preds, targets):
        return root(preds, targets)


def hits(preds, targets):
    return (preds.argmax(1) == targets).sum()


def highest(preds, targets):
    return preds.max()


def found_of_class(preds, targets):
    return preds.argmax(1)[targets == 1].float().mean()


class Linked:
    __name__ = "linked"

    def __call__(self, preds, targets):
        return self.link(preds[:, 0], targets.float())

    def link(self, one, other):
        return torch.cov(torch.stack([one, other]))[0, 1]


OF_A_PASS = [
    f1,
    by_helper,
    imported,
    by_attribute,
    median,
    root,
    power,
    area,
    torchmetrics_f1,
    Root(),
    partial(f1),
]


@pytest.mark.parametrize("metric", [*OF_A_PASS, hits, highest, found_of_class, Linked()])
def test_a_function_that_is_not_a_mean_raises_one_warning_with_the_fix(metric):
    learn = learner_of(metric)
    with pytest.warns(LearnerWarning, match=r"is not a mean over items.*whole_pass\(") as seen:
        learn.validate()
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.validate()


def micro(preds, targets):
    return f1_score(targets, preds.argmax(1), average="micro")


def accuracy_of(preds, targets):
    return accuracy_score(targets, preds.argmax(1))


def distance(preds, targets):
    return (preds - F.one_hot(targets, 2)).square().sum(1).sqrt().mean()


def above_half(preds, targets):
    return ((preds.softmax(1)[:, 1] > 0.5) == targets).float().mean()


def noise(preds, targets):
    return torch.rand(()).sqrt()


def one_batch_only(preds, targets):
    assert len(preds) <= 6
    return preds.square().sum().sqrt() * 0


def of_half(preds, targets):
    return (preds[:, 0] - targets).to(torch.bfloat16).mean()


SEEN: list[int] = []


def keeping(preds, targets):
    SEEN.append(len(preds))
    return len(SEEN)


class Changing(nn.Module):
    name = "changing"
    n_calls = 0

    def forward(self, preds, targets):
        self.n_calls += 1
        return self.n_calls


OF_ITEMS = [micro, accuracy_of, distance, above_half, noise, one_batch_only, of_half, keeping, Changing()]


@pytest.mark.parametrize("metric", OF_ITEMS)
def test_a_mean_over_items_raises_no_warning_whatever_it_calls(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learner_of(metric).validate()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        scores = self.layer(x)
        self.spread = scores.detach().std()
        return {"scores": scores, "scale": torch.tensor(2.0)}


def test_a_value_that_depends_on_more_than_rows_of_the_arguments_raises_no_warning():
    model = Scaled()

    def spread(preds, targets):
        return model.spread

    def scaled(preds, targets):
        return (preds["scores"][:2] * preds["scale"]).sum()

    batches = list(zip(X.split(6), CLASSES.split(6), strict=True))
    for metric in (spread, scaled):
        learn = Learner(model, Data(batches), lambda p, t: p["scores"].mean(), metrics=[metric])
        with warnings.catch_warnings():
            warnings.simplefilter("error", LearnerWarning)
            learn.validate(batches)


def test_one_batch_is_correct_and_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        assert not math.isnan(measured(f1, sizes=20))


def rank_of_best(preds, targets):
    return 1.0 + (preds > preds[targets.argmax()]).sum()


def test_a_batch_that_is_one_item_with_several_rows_raises_no_warning():
    torch.manual_seed(0)
    queries = [(torch.randn(n, 3), torch.rand(n, 1)) for n in (5, 3, 8)]
    data = Data(queries, list(queries), n_items=lambda batch: 1)
    learn = Learner(nn.Linear(3, 1), data, F.mse_loss, metrics=[rank_of_best])
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        found = learn.validate()["valid_rank_of_best"]
    ranks = [rank_of_best(learn.model(x), y).item() for x, y in queries]
    assert found == sum(ranks) / 3


def test_trying_a_function_draws_no_random_numbers():
    def drawing(preds, targets):
        return torch.rand(()).sqrt()

    learn = learner_of(drawing)
    torch.manual_seed(1)
    learn.fit(1)
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))


def test_a_function_that_takes_targets_first_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"pass whole_pass\(f1_score\)"):
        Metrics(f1_score)
