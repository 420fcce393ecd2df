"""Our own metrics of order: scikit-learn's and torchmetrics' numbers, with ties and absent classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from ground.measuring import SEEDS, SIZES, joined, over, split
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG

from callbacks import AUROC, NDCG, MeanReciprocalRank
from callbacks.measures.as_metrics import named_metrics

N_ITEMS = 6


def scored(sizes, seed, tied):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(sum(sizes), generator=generator)
    targets = torch.randint(2, (sum(sizes),), generator=generator)
    targets[:2] = torch.tensor([0, 1])
    return split(scores.round() if tied else scores, targets, sizes)


def rows(sizes, seed, tied=False, highest=3):
    """Batches of scores and relevances with six items per row; the first row has nothing relevant."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(sum(sizes), N_ITEMS, generator=generator)
    relevances = torch.randint(highest + 1, (sum(sizes), N_ITEMS), generator=generator)
    relevances[0] = 0
    return split(scores.round() if tied else scores, relevances, sizes)


def theirs_over(metric, batches):
    scores, relevances = joined(batches)
    index = torch.arange(len(scores)).unsqueeze(1).expand_as(scores)
    metric.update(scores, relevances, indexes=index)
    return metric.compute().item()


# Area under the curve -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=SEEDS, tied=st.booleans())
def test_auroc_equals_that_of_scikit_learn_also_with_ties(sizes, seed, tied):
    batches = scored(sizes, seed, tied)
    scores, targets = joined(batches)
    assert over(AUROC(), batches) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_auroc_equals_that_of_torchmetrics_from_logits_probabilities_columns_and_two_scores():
    batches = scored([7, 0, 5, 1], 0, tied=True)
    scores, targets = joined(batches)
    expected = pytest.approx(BinaryAUROC()(scores.sigmoid(), targets).item(), abs=1e-6)
    two = torch.stack((1 - scores, scores), 1)
    for preds, asked in (
        (scores, targets),
        (scores.sigmoid(), targets.float()),
        (scores.long(), targets.bool()),
        (scores.unsqueeze(1), targets.unsqueeze(1)),
        (scores.bfloat16(), targets),
        (two, targets),
    ):
        assert over(AUROC(), split(preds, asked, [7, 0, 5, 1])) == expected


def test_auroc_of_a_constant_is_a_half_and_counts_infinite_scores():
    targets = torch.tensor([0, 1, 0, 1])
    assert over(AUROC(), [(torch.ones(4), targets)]) == 0.5
    assert over(AUROC(), [(torch.tensor([-math.inf, math.inf, 0.0, math.inf]), targets)]) == 1


@pytest.mark.parametrize("value", [0, 1])
def test_auroc_of_one_class_is_nan(value):
    assert math.isnan(over(AUROC(), [(torch.randn(4), torch.full((4,), value))]))


def test_auroc_of_a_nan_is_nan():
    assert math.isnan(over(AUROC(), [(torch.tensor([0.0, math.nan, 1.0]), torch.tensor([0, 1, 1]))]))


def test_auroc_keeps_no_part_of_a_batch_that_its_maker_overwrites():
    scores, targets = torch.tensor([0.0, 1.0]), torch.tensor([0, 1])
    metric = AUROC()
    metric.update(scores, targets)
    scores.zero_()
    targets.zero_()
    assert metric.compute() == 1


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (3,)])
def test_auroc_refuses_shapes_that_do_not_fit_with_a_fix(shape):
    with pytest.raises(ValueError, match=r"AUROC: preds of shape .* do not match .*\(4,\).*MulticlassAUROC"):
        AUROC().update(torch.zeros(shape), torch.zeros(4))


def test_auroc_reports_targets_other_than_0_and_1_when_the_pass_ends():
    with pytest.raises(ValueError, match="AUROC: 2 targets of the pass are neither 0 nor 1"):
        over(AUROC(), [(torch.zeros(3), torch.tensor([0.5, 1.0, 2.0]))])


# Reciprocal rank ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_reciprocal_rank_equals_that_of_torchmetrics_with_several_relevant_items_or_none(sizes, seed):
    batches = rows(sizes, seed, highest=1)
    positive = [(scores.double().sigmoid(), relevances) for scores, relevances in batches]
    expected = theirs_over(RetrievalMRR(empty_target_action="neg"), positive)  # it drops items of score <= 0
    assert over(MeanReciprocalRank(), batches) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=SEEDS, tied=st.booleans())
def test_reciprocal_rank_of_one_item_by_number_equals_that_of_scikit_learn_also_with_ties(sizes, seed, tied):
    batches = rows(sizes, seed, tied)
    scores, _ = joined(batches)
    numbers = torch.randint(N_ITEMS, (len(scores),), generator=torch.Generator().manual_seed(seed))
    relevant = torch.eye(N_ITEMS)[numbers]
    expected = label_ranking_average_precision_score(relevant.double(), scores.double())
    assert over(MeanReciprocalRank(), split(scores, numbers, sizes)) == pytest.approx(expected, abs=1e-12)
    assert over(MeanReciprocalRank(), split(scores, relevant, sizes)) == pytest.approx(expected, abs=1e-12)


def test_of_tied_scores_the_irrelevant_items_come_first():
    assert over(MeanReciprocalRank(), [(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))]) == 1 / 3


# Gain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 1, 3, 9])
@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=SEEDS, tied=st.booleans())
def test_gain_equals_that_of_scikit_learn_also_with_ties_and_nothing_relevant(k, sizes, seed, tied):
    batches = rows(sizes, seed, tied)
    scores, relevances = joined(batches)
    assert over(NDCG(k), batches) == pytest.approx(ndcg_score(relevances, scores, k=k), abs=1e-12)


def test_gain_equals_that_of_torchmetrics():
    batches = rows([3, 0, 4], 0, tied=True)
    for k in (None, 2):
        expected = theirs_over(RetrievalNormalizedDCG(empty_target_action="neg", top_k=k), batches)
        assert over(NDCG(k), batches) == pytest.approx(expected, abs=1e-6)


def test_gain_with_ties_is_the_mean_over_all_their_orders():
    relevances = torch.tensor([[3.0, 0.0, 1.0]])
    orders = [
        over(NDCG(2), [(torch.tensor([order]).float(), relevances)])
        for order in itertools.permutations(range(3))
    ]
    assert over(NDCG(2), [(torch.zeros(1, 3), relevances)]) == pytest.approx(
        torch.stack(orders).mean().item()
    )


def test_gain_takes_the_number_of_the_relevant_item():
    scores, numbers = torch.randn(5, N_ITEMS), torch.arange(5)
    assert over(NDCG(), [(scores, numbers)]) == over(NDCG(), [(scores, torch.eye(N_ITEMS)[:5])])


@pytest.mark.parametrize("k", [0, -3, 2.0, True])
def test_a_k_that_is_not_a_number_of_places_is_refused(k):
    with pytest.raises(ValueError, match="k must be a whole number, 1 or more"):
        NDCG(k)


def test_gains_of_several_k_have_different_names():
    assert list(named_metrics((NDCG, NDCG(10)))) == ["ndcg", "ndcg_at_10"]


# Both -----------------------------------------------------------------------------------------------------

BY_ROW = [MeanReciprocalRank(), NDCG(3)]


@pytest.mark.parametrize("metric", BY_ROW)
def test_a_score_of_nan_comes_last(metric):
    scores = torch.tensor([[math.nan, 1.0, 0.0]])
    last = over(metric, [(torch.tensor([[-9.0, 1.0, 0.0]]), torch.tensor([0]))])
    assert over(metric, [(scores, torch.tensor([0]))]) == last < 1


@pytest.mark.parametrize("metric", BY_ROW)
@pytest.mark.parametrize(
    ("preds", "targets"),
    [
        (torch.zeros(4), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 2)),
        (torch.zeros(4, 0), torch.zeros(4, 0)),
        (torch.zeros(4, 3, 2), torch.zeros(4, 3, 2)),
    ],
    ids=["flat", "float numbers", "fewer items", "no items", "more dimensions"],
)
def test_rows_that_do_not_fit_are_refused_with_those_that_do(metric, preds, targets):
    with pytest.raises(ValueError, match=r"preds of shape .*\(rows, items\).*torchmetrics.retrieval"):
        metric.update(preds, targets)


@pytest.mark.parametrize("metric", BY_ROW)
@pytest.mark.parametrize(
    "targets", [torch.tensor([3, -1]), torch.tensor([[1.0, -1.0, 0.0], [0.0, math.nan, 0.0]])]
)
def test_targets_that_no_order_suits_are_reported_when_the_pass_ends(metric, targets):
    with pytest.raises(ValueError, match="2 targets of the pass are relevances below 0 or NaN, or indices"):
        over(metric, [(torch.randn(2, 3), targets)])
