"""Explained variance and correlation: scikit-learn's and SciPy's numbers over all the data at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics
from ground.measuring import SEEDS, SIZES, joined, over, split
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import explained_variance_score, r2_score
from torch.nn import functional as F

from callbacks import (
    AUROC,
    F1,
    MAE,
    MSE,
    NDCG,
    R2,
    RMSE,
    ExplainedVariance,
    PearsonCorr,
    Perplexity,
    TopKAccuracy,
)


def numbers(sizes, seed, *shape, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64)
    preds = targets + 3 + torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64)
    return split(preds + offset, targets + offset, sizes)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=SEEDS, offset=st.sampled_from([0.0, 1e4]), shape=st.sampled_from([(), (1,), (3,)]))
def test_explained_variance_equals_that_of_scikit_learn_on_uneven_batches(sizes, seed, offset, shape):
    batches = numbers(sizes, seed, *shape, offset=offset)
    preds, targets = joined(batches)
    assert over(ExplainedVariance(), batches) == pytest.approx(
        explained_variance_score(targets, preds), rel=1e-8, abs=1e-8
    )


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=SEEDS, offset=st.sampled_from([0.0, 1e4]))
def test_pearson_equals_that_of_scipy_on_uneven_batches(sizes, seed, offset):
    batches = numbers(sizes, seed, offset=offset)
    preds, targets = joined(batches)
    expected = pearsonr(preds, targets).statistic
    assert over(PearsonCorr(), batches) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_pearson_of_several_outputs_is_the_mean_of_torchmetrics():
    batches = numbers([5, 0, 2, 1], 3, 4)
    theirs = torchmetrics.PearsonCorrCoef(num_outputs=4).set_dtype(torch.float64)
    theirs.update(*joined(batches))
    assert over(PearsonCorr(), batches) == pytest.approx(theirs.compute().mean().item(), rel=1e-6)


def test_a_bias_lowers_r2_and_not_explained_variance():
    targets = torch.tensor([1.0, 2.0, 4.0])
    batches = [(targets + 1, targets)]
    assert over(ExplainedVariance(), batches) == pytest.approx(1)
    assert over(R2(), batches) == pytest.approx(r2_score(targets, targets + 1))


def test_explained_variance_of_constant_targets_is_one_for_constant_errors_and_zero_otherwise():
    constant = torch.full((4,), 0.1)
    for preds in (constant, constant + 1, torch.arange(4.0)):
        assert over(ExplainedVariance(), [(preds, constant)]) == explained_variance_score(constant, preds)


@pytest.mark.parametrize("parts", [("constant", "varied"), ("varied", "constant"), ("constant", "constant")])
def test_pearson_is_nan_where_one_does_not_vary(parts):
    values = {"constant": torch.full((4,), 0.1), "varied": torch.arange(4.0)}
    assert math.isnan(over(PearsonCorr(), [(values[parts[0]], values[parts[1]])]))


def test_pearson_of_a_line_is_one_and_never_more():
    targets = torch.linspace(0, 1, 97, dtype=torch.float64)
    for slope in (1 / 3, 1e-7, -1e9):
        value = over(PearsonCorr(), split(targets * slope + 0.1, targets, [50, 47]))
        assert value == pytest.approx(math.copysign(1, slope), abs=1e-12)
        assert abs(value) <= 1


@pytest.mark.parametrize("metric", [ExplainedVariance, PearsonCorr])
def test_one_item_has_no_spread_so_the_value_is_nan(metric):
    assert math.isnan(over(metric(), [(torch.ones(1), torch.ones(1))]))


@pytest.mark.parametrize("metric", [ExplainedVariance, PearsonCorr])
def test_a_nan_among_the_targets_is_not_hidden(metric):
    assert math.isnan(over(metric(), [(torch.zeros(3), torch.tensor([1.0, math.nan, 2.0]))]))


@pytest.mark.parametrize("metric", [ExplainedVariance, PearsonCorr])
def test_shapes_that_differ_are_refused_with_a_fix(metric):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: preds of shape \(4, 1\) .*squeeze"):
        metric().update(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("metric", [MSE, RMSE, R2, MAE, ExplainedVariance, PearsonCorr])
def test_a_number_without_a_dimension_is_one_item(metric):
    preds, targets = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    expected = over(metric(), [(preds, targets)])
    assert over(metric(), [(preds[:4], targets[:4]), (preds[4], targets[4])]) == pytest.approx(
        float(expected)
    )


@pytest.mark.parametrize("metric", [MSE, MAE, PearsonCorr])
def test_complex_numbers_are_refused_instead_of_cut(metric):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: preds are torch.complex64.*view_as_real"):
        metric().update(torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64))


STEPS_FIRST = [
    torch.arange(6.0 * n).reshape(3, n, 2).sin() for n in (4, 1)
]  # the last batch has one sequence


@pytest.mark.parametrize(("metric", "loss"), [(MSE(), F.mse_loss), (MAE(), F.l1_loss)])
def test_errors_of_batches_with_different_shapes_are_means_over_all_numbers(metric, loss):
    batches = [(each * 0, each) for each in STEPS_FIRST]
    together = torch.cat([each.flatten() for each in STEPS_FIRST])
    assert over(metric, batches) == pytest.approx(loss(together * 0, together).item())


@pytest.mark.parametrize("metric", [R2(), PearsonCorr(), ExplainedVariance()])
def test_different_outputs_in_batches_are_refused_with_a_fix(metric):
    with pytest.raises(
        ValueError, match=r"shape \(1, 2\), .* \(4, 2\).*super\(\).update\(preds.flatten\(0, -2\)"
    ):
        over(metric, [(each * 0, each) for each in STEPS_FIRST])


@pytest.mark.parametrize("metric", [MAE, RMSE, ExplainedVariance, F1, AUROC, NDCG, Perplexity, TopKAccuracy])
@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.ones(2), 3, {"logits": torch.ones(2)}, None], ids=repr)
def test_preds_and_targets_that_are_not_tensors_are_refused_by_their_type(metric, wrong):
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=rf"{metric.__name__}.update: preds must be .* type {kind}. Convert"):
        metric().update(wrong, torch.ones(2))


def test_an_error_in_a_metric_of_the_user_stays_as_it_is():
    class OfLogits(MAE):
        def update(self, preds, targets):
            super().update(preds["logits"], targets.missing)

    with pytest.raises(AttributeError, match="missing"):
        OfLogits().update({"logits": torch.ones(2)}, torch.ones(2))
