"""Metrics have the values of torchmetrics and of hand-written code, on batches of uneven size."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchmetrics
from ground.uneven import DEFAULTS, class_batches, regress
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional as F

from callbacks import MAE, MSE, R2, RMSE, Callback, Metrics, accuracy
from learner import Learner

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 2)


def over(metric, batches):
    """A metric's value over batches of preds and targets."""
    metric.reset()
    for preds, targets in batches:
        metric.update(preds, targets)
    return float(metric.compute())


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, n_outputs=st.sampled_from([1, 3]), seed=st.integers(0, 1000))
def test_our_regression_metrics_equal_torchmetrics_on_uneven_batches(sizes, n_outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, n_outputs) if n_outputs > 1 else (n,) for n in sizes]
    batches = [(torch.randn(s, generator=generator), torch.randn(s, generator=generator)) for s in shapes]
    pairs = [
        (MSE(), torchmetrics.MeanSquaredError()),
        (RMSE(), torchmetrics.MeanSquaredError(squared=False)),
        (MAE(), torchmetrics.MeanAbsoluteError()),
        (R2(), torchmetrics.R2Score()),
    ]
    for ours, theirs in pairs:
        assert over(ours, batches) == pytest.approx(over(theirs, batches), rel=1e-3, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, offset=st.sampled_from([0.0, 1e4]), seed=st.integers(0, 1000))
def test_r2_keeps_its_digits_where_the_targets_are_large_and_vary_little(sizes, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [
        (
            offset + torch.randn(n, generator=generator).double(),
            offset + torch.randn(n, generator=generator).double(),
        )
        for n in sizes
    ]
    preds, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert over(R2(), batches) == pytest.approx(r2_score(targets, preds), rel=1e-9)


def test_r2_of_constant_targets_is_one_if_all_predictions_are_exact_and_zero_otherwise():
    ones = torch.ones(4)
    assert over(R2(), [(ones, ones)]) == r2_score(ones, ones) == 1
    assert over(R2(), [(ones * 2, ones)]) == r2_score(ones, ones * 2) == 0


@pytest.mark.parametrize("metric", [MSE(), RMSE(), MAE(), R2()])
def test_a_nan_among_the_targets_is_not_hidden(metric):
    assert math.isnan(over(metric, [(torch.zeros(3), torch.tensor([1.0, math.nan, 2.0]))]))


@pytest.mark.parametrize("metric", [MSE(), RMSE(), MAE()])
def test_the_error_of_nothing_is_nan(metric):
    assert math.isnan(over(metric, []))


def test_r2_of_one_item_is_refused():
    metric = R2()
    metric.update(torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="at least two items, but the pass had 1"):
        metric.compute()


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_accuracy_equals_torchmetrics_on_uneven_batches(sizes, seed):
    batches = class_batches(*sizes, seed=seed)
    torch.manual_seed(seed)
    model = nn.Linear(3, 3)
    learn = Learner(
        model,
        (batches, batches),
        F.cross_entropy,
        partial(torch.optim.SGD, lr=0.1),
        [Metrics(accuracy)],
        defaults=DEFAULTS,
    )
    theirs = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    with torch.no_grad():
        expected = over(theirs, [(model(inputs), targets) for inputs, targets in batches])
    assert learn.validate()["valid_accuracy"] == pytest.approx(expected, rel=1e-6)


def test_accuracy_takes_binary_logits_class_numbers_and_segmentation_scores():
    assert accuracy(torch.tensor([1.0, -1.0, 3.0]), torch.tensor([1, 1, 0])) == pytest.approx(1 / 3)
    assert accuracy(torch.tensor([2, 1, 0]), torch.tensor([2, 2, 0])) == pytest.approx(2 / 3)
    scores = torch.eye(4).reshape(1, 4, 2, 2)  # the pixels' classes are 0, 1, 2, 3
    assert accuracy(scores, torch.tensor([[[0, 1], [2, 0]]])) == pytest.approx(3 / 4)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (4, 2, 3), ()])
def test_accuracy_refuses_shapes_that_do_not_match_and_shows_which_would(shape):
    with pytest.raises(ValueError, match=r"accuracy: preds of shape .* \(items, classes\)"):
        accuracy(torch.zeros(shape), torch.zeros(4))


@pytest.mark.parametrize("metric", [MSE(), RMSE(), MAE(), R2()])
def test_preds_of_one_column_against_flat_targets_are_refused_with_a_fix(metric):
    with pytest.raises(
        ValueError, match=r"shape \(4, 1\) would be broadcast with targets of shape \(4,\).*squeeze"
    ):
        metric.update(torch.zeros(4, 1), torch.zeros(4))


def test_losses_are_weighted_by_items_on_uneven_batches():
    class KeepLosses(Callback):
        def before_fit(self, learn):
            self.seen = {True: [], False: []}

        def after_batch(self, learn):
            self.seen[learn.training].append((float(learn.loss), learn.n_items))

    keep = KeepLosses()
    learn = regress(callbacks=[keep])
    for training, name in ((True, "train_loss"), (False, "valid_loss")):
        losses, items = (
            torch.tensor(part, dtype=torch.float64) for part in zip(*keep.seen[training], strict=True)
        )
        by_hand = (losses * items).sum() / items.sum()
        assert learn.history[-1][name] == pytest.approx(by_hand.item(), rel=1e-15)
        assert learn.history[-1][name] != pytest.approx(losses.mean().item(), rel=1e-3)


def test_rmse_of_a_pass_is_the_root_of_the_mean_square():
    learn = regress(RMSE())
    assert learn.history[-1]["valid_rmse"] == pytest.approx(learn.history[-1]["valid_loss"] ** 0.5, rel=1e-6)
