"""Our own metrics of classes: scikit-learn's and torchmetrics' numbers, on uneven batches."""

from __future__ import annotations

import math

import pytest
import torch
from ground.measuring import SEEDS, SIZES, joined, over, split
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch.nn import functional as F
from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall
from torchmetrics.text import Perplexity as TheirPerplexity

from callbacks import F1, Perplexity, Precision, Recall, TopKAccuracy, accuracy
from callbacks.measures.as_metrics import named_metrics

COUNTS = {
    Precision: (sk.precision_score, MulticlassPrecision),
    Recall: (sk.recall_score, MulticlassRecall),
    F1: (sk.f1_score, MulticlassF1Score),
}
AVERAGES = ["macro", "micro", None]


def classes(sizes, seed, n_classes=5, n_used=5, tied=False, shape=()):
    """Batches of scores and class indices, of which only the first `n_used` are predicted or are targets."""
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randn(sum(sizes), n_classes, *shape, generator=generator)
    preds[:, n_used:] -= 100
    targets = torch.randint(n_used, (sum(sizes), *shape), generator=generator)
    return split(preds.round() if tied else preds, targets, sizes)


# Precision, recall, F1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("metric", COUNTS)
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS, n_used=st.integers(1, 5))
def test_counts_equal_those_of_scikit_learn_also_without_some_classes(metric, average, sizes, seed, n_used):
    batches = classes(sizes, seed, n_used=n_used)
    preds, targets = joined(batches)
    present = sorted({*preds.argmax(1).tolist(), *targets.tolist()}) if average == "macro" else range(5)
    expected = COUNTS[metric][0](
        targets, preds.argmax(1), labels=list(present), average=average, zero_division=0
    )
    assert over(metric(average), batches).tolist() == pytest.approx(
        expected.tolist() if average is None else float(expected), abs=1e-12
    )


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("metric", COUNTS)
@settings(max_examples=10, deadline=None)
@given(sizes=SIZES, seed=SEEDS, n_used=st.integers(2, 5))
def test_counts_of_classes_equal_those_of_torchmetrics_also_for_pixels(metric, average, sizes, seed, n_used):
    batches = classes(sizes, seed, n_used=n_used, shape=(2, 3))
    theirs = COUNTS[metric][1](5, average=average, ignore_index=1)
    theirs.update(*joined(batches))
    assert over(metric(average, ignore_index=1), batches).tolist() == pytest.approx(
        theirs.compute().tolist(), abs=1e-6
    )


@pytest.mark.parametrize("metric", COUNTS)
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_binary_measures_the_positive_class_from_logits_whole_numbers_or_two_scores(metric, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), generator=generator)
    targets = torch.randint(2, (sum(sizes),), generator=generator)
    expected = COUNTS[metric][0](targets, logits > 0, zero_division=0)
    two = torch.stack((torch.zeros_like(logits), logits), 1)
    for preds, asked in (
        (logits, targets),
        (logits, targets.float()),
        ((logits > 0).long(), targets),
        (logits > 0, targets.bool()),
        (two, targets),
        (logits.unsqueeze(1), targets.unsqueeze(1)),
    ):
        assert over(metric(), split(preds, asked, sizes)) == pytest.approx(expected, abs=1e-12)


def test_micro_is_accuracy():
    batches = classes([7, 2, 1], 0)
    for metric in COUNTS:
        assert over(metric("micro"), batches) == pytest.approx(float(accuracy(*joined(batches))))


def test_ignored_targets_do_not_count():
    preds, targets = torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.tensor([1, 0, 1, -1])
    for metric in COUNTS:
        assert over(metric(ignore_index=-1), [(preds, targets)]) == over(metric(), [(preds[:3], targets[:3])])


@pytest.mark.parametrize("metric", COUNTS)
def test_binary_with_more_classes_is_refused_and_the_error_lists_the_averages(metric):
    title = metric.__name__
    with pytest.raises(ValueError, match=rf"there are scores of 5\. Choose {title}\('macro'\)"):
        over(metric(), classes([3], 0))


@pytest.mark.parametrize("average", AVERAGES)
def test_binary_targets_with_another_average_are_refused(average):
    with pytest.raises(ValueError, match=r"Use F1\('binary'\), or pass scores"):
        F1(average).update(torch.zeros(3), torch.zeros(3))


def test_an_unknown_average_is_refused():
    with pytest.raises(ValueError, match=r"F1\(average='weighted'\): average must be 'binary', 'macro'"):
        F1("weighted")


def test_batches_of_other_classes_are_refused():
    metric = F1("macro")
    metric.update(*classes([3], 0)[0])
    with pytest.raises(ValueError, match="scores of 4 classes after scores of 5"):
        metric.update(*classes([3], 0, n_classes=4, n_used=4)[0])


# Top k ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4])
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_top_k_equals_that_of_scikit_learn_on_uneven_batches(k, sizes, seed):
    batches = classes(sizes, seed)
    preds, targets = joined(batches)
    expected = sk.top_k_accuracy_score(targets, preds, k=k, labels=range(5))
    assert over(TopKAccuracy(k), batches) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS, k=st.integers(1, 4))
def test_of_tied_classes_the_lower_number_goes_first(sizes, seed, k):
    batches = classes(sizes, seed, tied=True, shape=(2,))
    preds, targets = joined(batches)
    chosen = preds.sort(dim=1, descending=True, stable=True).indices[:, :k]
    expected = (chosen == targets.unsqueeze(1)).any(1).double().mean()
    assert over(TopKAccuracy(k), batches) == pytest.approx(float(expected), abs=1e-12)


def test_top_1_is_accuracy_also_with_ties():
    batches = classes([7, 2, 1], 1, tied=True)
    assert over(TopKAccuracy(1), batches) == pytest.approx(float(accuracy(*joined(batches))))


def test_a_score_of_nan_is_never_right():
    preds = torch.full((4, 3), math.nan)
    assert over(TopKAccuracy(2), [(preds, torch.arange(4) % 3)]) == 0
    preds[:, 0] = 1.0
    assert over(TopKAccuracy(1), [(preds, torch.zeros(4, dtype=torch.int64))]) == 0


def test_top_k_leaves_targets_of_the_index_out():
    preds, targets = classes([6], 0)[0]
    masked = targets.clone()
    masked[3:] = -100
    assert over(TopKAccuracy(2, ignore_index=-100), [(preds, masked)]) == over(
        TopKAccuracy(2), [(preds[:3], targets[:3])]
    )


@pytest.mark.parametrize("k", [5, 9])
def test_k_equal_to_the_number_of_classes_is_refused(k):
    with pytest.raises(ValueError, match=rf"TopKAccuracy\(k={k}\): with 5 classes,.* from 1 to 4"):
        over(TopKAccuracy(k), classes([3], 0))


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2"])
def test_a_k_that_is_not_a_number_of_classes_is_refused(k):
    with pytest.raises(ValueError, match="k must be a whole number, 1 or more"):
        TopKAccuracy(k)


def test_several_k_have_different_names():
    assert list(named_metrics((TopKAccuracy(1), TopKAccuracy))) == ["top_1_accuracy", "top_5_accuracy"]


# Perplexity -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_perplexity_equals_that_of_torchmetrics_and_the_exponential_of_the_mean_loss(sizes, seed):
    batches = [(preds.movedim(1, -1), targets) for preds, targets in classes(sizes, seed, shape=(3,))]
    for _, targets in batches:
        targets[:, 1] = -100
    preds, targets = joined(batches)
    theirs = TheirPerplexity(ignore_index=-100)
    theirs.update(preds, targets)
    found = over(Perplexity(class_dim=-1), batches)
    assert found == pytest.approx(theirs.compute().item(), rel=1e-5)
    expected = F.cross_entropy(preds.double().movedim(-1, 1), targets).exp()
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_perplexity_takes_the_classes_where_cross_entropy_does():
    batches = classes([4, 2], 0, shape=(3,))
    turned = [(preds.movedim(1, -1), targets) for preds, targets in batches]
    assert over(Perplexity(), batches) == over(Perplexity(class_dim=-1), turned)
    flat = classes([4, 2], 0)
    assert over(Perplexity(), flat) == over(Perplexity(class_dim=-1), flat)


def test_perplexity_finds_the_classes_in_the_last_dimension():
    batches = classes([4, 2], 0, shape=(3,))
    turned = [(preds.movedim(1, -1), targets) for preds, targets in batches]
    assert over(Perplexity(), turned) == over(Perplexity(class_dim=-1), turned)
    with pytest.raises(
        ValueError, match=r"preds of shape \(4, 3, 7\), .* do not match targets of shape \(4, 5\)"
    ):
        Perplexity().update(torch.zeros(4, 3, 7), torch.zeros(4, 5, dtype=torch.int64))


def test_perplexity_of_scores_that_are_all_alike_is_the_number_of_classes():
    assert over(Perplexity(), [(torch.zeros(3, 7), torch.arange(3))]) == pytest.approx(7, rel=1e-6)


def test_perplexity_of_a_loss_beyond_all_bounds_is_infinite():
    preds = torch.tensor([[0.0, 1e5]])
    assert over(Perplexity(), [(preds, torch.tensor([0]))]) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_perplexity_takes_other_precisions(dtype):
    preds, targets = classes([6], 0)[0]
    expected = F.cross_entropy(preds.to(dtype).double(), targets).exp()
    assert over(Perplexity(), [(preds.to(dtype), targets)]) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("class_dim", "fix"), [(1, "class_dim=-1"), (-1, "class_dim=1")])
def test_perplexity_of_classes_in_the_other_place_is_refused_with_a_fix(class_dim, fix):
    shape = (4, 3, 7) if class_dim == 1 else (4, 7, 3)
    with pytest.raises(ValueError, match=rf"targets of shape \(4, 3\).*or {fix}"):
        Perplexity(class_dim=class_dim).update(torch.zeros(shape), torch.zeros(4, 3, dtype=torch.int64))


def test_a_missing_class_dimension_is_refused():
    with pytest.raises(ValueError, match=r"Perplexity\(class_dim=2\): class_dim must be 1, -1 or None"):
        Perplexity(class_dim=2)  # type: ignore[arg-type]


# All ------------------------------------------------------------------------------------------------------

BY_CLASS = [TopKAccuracy(2), Perplexity(), Precision("macro"), Recall("macro"), F1("macro")]
NUMBERS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("metric", BY_CLASS, ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize(
    ("preds", "targets"),
    [
        (torch.zeros(4), torch.zeros(4, 1).long()),
        (torch.zeros(4, 1), NUMBERS),
        (torch.zeros(3, 5), NUMBERS),
        (torch.zeros(4, 5, 2), NUMBERS),
        (torch.zeros(4, 5), NUMBERS.float()),
        (torch.zeros(4, 5).long(), NUMBERS),
    ],
    ids=["flat", "one class", "fewer items", "more dimensions", "float targets", "whole scores"],
)
def test_shapes_that_do_not_fit_are_refused_with_those_that_do(metric, preds, targets):
    with pytest.raises(
        ValueError,
        match=rf"{type(metric).__name__}.*preds of shape .* (do not match|would be broadcast with) targets",
    ):
        metric.update(preds, targets)


@pytest.mark.parametrize("metric", BY_CLASS, ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize("number", [-100, 5])
def test_targets_beyond_the_classes_are_reported_when_the_pass_ends(metric, number):
    metric = Perplexity(ignore_index=7) if isinstance(metric, Perplexity) else metric
    with pytest.raises(ValueError, match=r"2 targets of the pass are not in .* 0 to 4.*ignore_index"):
        over(metric, [(torch.zeros(3, 5), torch.tensor([1, number, number]))])


@pytest.mark.parametrize("preds", [torch.zeros(3), torch.zeros(3).long()])
@pytest.mark.parametrize("metric", COUNTS)
def test_targets_that_are_neither_0_nor_1_are_reported(metric, preds):
    with pytest.raises(ValueError, match="1 targets of the pass are not in the classes 0 to 1"):
        over(metric(), [(preds, torch.tensor([0.0, 0.5, 1.0]))])


def test_predictions_that_are_neither_0_nor_1_are_reported():
    with pytest.raises(ValueError, match="not in the classes 0 to 1"):
        over(F1(), [(torch.tensor([0, 2]), torch.tensor([0, 1]))])
