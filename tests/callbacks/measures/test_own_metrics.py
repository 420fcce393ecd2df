"""Properties of all our own metrics: no wait, no error without items, interruptions, recipes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from ground.measuring import over
from resumed import Crash
from torch import nn

import callbacks
from callbacks import (
    AUROC,
    F1,
    MAE,
    MSE,
    NDCG,
    R2,
    RMSE,
    Checkpoint,
    ExplainedVariance,
    MeanReciprocalRank,
    Metrics,
    PearsonCorr,
    Perplexity,
    Precision,
    Recall,
    Recorder,
    TopKAccuracy,
    ZeroGrad,
    accuracy,
)
from callbacks.measures.as_metrics import direction_of, metric_name
from callbacks.measures.classification import Accuracy
from learner import Data, Learner
from learner.recipes.names import table
from learner.recipes.recipe import load_recipe
from learner.recipes.writer import learner_to_recipe

SIZES = (7, 7, 7, 2, 5, 1)  # of the batches: uneven, one of a single item

NUMBERS = [MSE, RMSE, MAE, R2, ExplainedVariance, PearsonCorr]  # of preds and targets (items, 3)
BINARY = [AUROC, F1, Accuracy]  # of (items,) and (items,)
CLASSES = [  # of scores (items, 3) and class indices (items,)
    Accuracy,
    partial(TopKAccuracy, 2),
    partial(Precision, "macro"),
    partial(Recall, "micro"),
    partial(F1, None),
    Perplexity,
    MeanReciprocalRank,
    partial(NDCG, 2),
]
KINDS = {"numbers": NUMBERS, "binary": BINARY, "classes": CLASSES}
ALL = [(kind, make) for kind, makers in KINDS.items() for make in makers]
each_metric = pytest.mark.parametrize(
    ("kind", "make"), ALL, ids=[f"{metric_name(make())}, {kind}" for kind, make in ALL]
)


def batch(kind: str, n: int, generator: torch.Generator | None = None):
    """Predictions and targets of a kind."""
    preds = torch.randn((n,) if kind == "binary" else (n, 3), generator=generator)
    if kind == "numbers":
        return preds, torch.randn(n, 3, generator=generator)
    return preds, torch.randint(2 if kind == "binary" else 3, (n,), generator=generator)


def test_every_metric_that_is_exported_is_tested_here():
    """This fails if a new metric is exported and not listed above."""
    named = {make.func if isinstance(make, partial) else make for _, make in ALL}
    ours = {item for item in table("metric").values() if isinstance(item, type)}
    assert named == ours | {Accuracy}
    assert table("metric").keys() <= set(callbacks.__all__)


@each_metric
def test_no_update_waits_for_the_device(kind, make):
    """A number of a meta tensor cannot be read, so any wait is an error."""
    metric = make()
    for size in (4, 1):
        metric.update(*(each.to("meta") for each in batch(kind, size)))


@each_metric
def test_a_pass_without_batches_is_nan_and_raises_no_error(kind, make):
    empty = batch(kind, 0)
    for batches in ([], [empty], [empty, empty]):
        if make is R2:
            with pytest.raises(ValueError, match="at least two items"):
                over(make(), batches)
        else:
            assert over(make(), batches).isnan().all()


@each_metric
def test_an_empty_batch_has_no_weight(kind, make):
    filled, empty = batch(kind, 6), batch(kind, 0)
    expected = over(make(), [filled])
    assert torch.equal(over(make(), [empty, filled, empty]), expected)


@each_metric
def test_how_the_items_are_batched_does_not_matter(kind, make):
    preds, targets = batch(kind, 29, torch.Generator().manual_seed(1))
    parts = zip(preds.split(SIZES), targets.split(SIZES), strict=True)
    torch.testing.assert_close(over(make(), parts), over(make(), [(preds, targets)]), rtol=1e-6, atol=1e-9)


@each_metric
def test_a_new_pass_forgets_the_last(kind, make):
    metric, parts = make(), [batch(kind, 5), batch(kind, 3)]
    first = over(metric, parts)
    over(metric, [batch(kind, 4)])
    assert torch.equal(over(metric, parts), first)


@each_metric
def test_it_declares_which_way_is_better(kind, make):
    better = "min" if metric_name(make()) in ("mse", "rmse", "mae", "perplexity") else "max"
    assert direction_of(make()) == better


class Same(nn.Module):
    """A model that returns its inputs, with a weight for the optimizer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        return inputs + 0 * self.weight


def mean(preds, targets):
    return preds.mean()


def learner(kind, make, *callbacks):
    data = [[batch(kind, n, torch.Generator().manual_seed(seed + n)) for n in SIZES] for seed in (0, 50)]
    metric = make()
    metric.name = "metric"
    defaults = (ZeroGrad, Metrics(metric, on="both"), Recorder)
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(Same(), Data(*data), mean, sgd, callbacks, defaults=defaults)


@pytest.mark.parametrize("crash_at", [3, 9])
@each_metric
def test_the_counts_survive_an_interruption_bit_for_bit(kind, make, crash_at, tmp_path):
    whole = learner(kind, make)
    whole.fit(1)
    crashed = learner(kind, make, Checkpoint(tmp_path / "run", "1 step"), Crash(crash_at))
    with pytest.raises(ZeroDivisionError):
        crashed.fit(1)
    again = learner(kind, make, Checkpoint(tmp_path / "run", "1 step"))
    again.fit(1, resume="must")
    for name in ("train_metric", "valid_metric"):
        assert again.history[-1][name] == whole.history[-1][name]
        assert not math.isnan(torch.tensor(whole.history[-1][name]).sum())


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (TopKAccuracy(2), [TopKAccuracy(1)], r"(?s)then, now.*k=2.*k=1"),
        (Accuracy(), [F1("macro")], "other metrics"),
        (F1("macro"), [F1("micro")], r"average='macro'"),
        (accuracy, [accuracy, Perplexity()], "other metrics"),
        (accuracy, [], "(?s)accuracy.*none"),
    ],
    ids=["another k", "another class", "another average", "one more", "none"],
)
def test_a_pass_under_way_does_not_resume_with_other_metrics(then, now, words):
    begun, other = Metrics(then, on="train"), Metrics(*now, on="train")
    begun._passes["train"].is_open = True
    with pytest.raises(ValueError, match=words):
        other.under_way = begun.under_way
    same = Metrics(then, on="train")
    same.under_way = begun.under_way


def test_a_run_saved_between_passes_resumes_with_other_metrics():
    Metrics(F1()).under_way = Metrics(accuracy).under_way


def test_a_snapshot_in_the_middle_of_a_pass_does_not_grow_with_it():
    learn = learner("binary", AUROC)
    metric = learn.metrics[0]
    metric.update(torch.zeros(2), torch.tensor([0, 1]))
    learn.callbacks[Metrics]._passes["train"].is_open = True
    snapshot = learn.snapshot()
    metric.update(torch.zeros(2), torch.tensor([0, 1]))
    learn.restore(snapshot)
    assert len(learn.metrics[0].scores) == 1


RECIPE = """
data: {use: digits, seed: 0}
model: {use: Linear, in_features: 64, out_features: 10}
loss: cross_entropy
optimizer: {use: SGD, lr: 0.1}
defaults: [ZeroGrad, Metrics, Recorder]
metrics:
- accuracy
- {use: TopKAccuracy, k: 3}
- {use: F1, average: macro}
- {use: Recall, average: null}
- Perplexity
- MeanReciprocalRank
- {use: NDCG, k: 5}
fit: {epochs: 1}
"""


def test_recipes_name_them_with_their_settings_and_write_them_again(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    learn = load_recipe(tmp_path / "recipe.yaml").build()
    row = learn.fit(1)[0]
    assert 0.3 < row["valid_accuracy"] < row["valid_top_3_accuracy"] < 1
    assert len(row["valid_recall"]) == 10
    assert {"valid_f1", "valid_perplexity", "valid_mean_reciprocal_rank", "valid_ndcg_at_5"} <= set(row)
    text = learner_to_recipe(learn, 1, data={"use": "digits", "seed": 0})
    for words in ("use: TopKAccuracy", "k: 3", "average: macro", "use: Recall", "- Perplexity", "k: 5"):
        assert words in text
