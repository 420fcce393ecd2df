"""Several processes measure what one process measures."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from ranks.in_ranks import in_ranks
from torch import Tensor, nn

import callbacks
from callbacks import Callback, Metrics, Timer, whole_pass
from callbacks.distributed.distributed import Distributed
from learner import Data, Learner


class Largest:
    """A user's own metric: the largest score."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.value = torch.tensor(-torch.inf)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.value = torch.maximum(self.value, preds.max())

    def merge(self, other: Largest) -> None:
        self.value = torch.maximum(self.value, other.value)

    def compute(self) -> Tensor:
        return self.value


class Unmerged(Largest):
    merge = None  # type: ignore[assignment]


def median(preds: Tensor, targets: Tensor) -> Tensor:
    return preds.median()


def of_classes() -> list[Any]:
    multi = {"num_classes": 3, "average": "macro"}
    return [
        callbacks.accuracy,
        nn.functional.cross_entropy,
        *(callbacks.Precision("macro"), callbacks.Recall(None), callbacks.F1("micro")),
        *(callbacks.TopKAccuracy(2), callbacks.Perplexity()),
        *(callbacks.MeanReciprocalRank(), callbacks.NDCG()),
        *(Largest(), whole_pass(median)),
        torchmetrics.MetricCollection(
            [
                torchmetrics.classification.MulticlassF1Score(**multi),
                torchmetrics.Accuracy("multiclass", num_classes=3),
            ]
        ),
        torchmetrics.AUROC("multiclass", num_classes=3),
        torchmetrics.ClasswiseWrapper(torchmetrics.Recall("multiclass", num_classes=3, average=None)),
    ]


def of_numbers() -> list[Any]:
    return [
        *(callbacks.MSE(), callbacks.RMSE(), callbacks.R2(), callbacks.MAE()),
        *(callbacks.ExplainedVariance(), callbacks.PearsonCorr()),
        *(torchmetrics.MeanSquaredError(), torchmetrics.PearsonCorrCoef(), torchmetrics.SpearmanCorrCoef()),
    ]


def measured(is_numbers: bool, n_items: int, *callbacks: Any) -> list[dict[str, Any]]:
    """The history of training on 11 items and validation on some."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, 4, generator=generator)
    targets = inputs.sum(1) + 5 if is_numbers else torch.randint(3, (11,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)) if is_numbers else nn.Linear(4, 3)
    loss = nn.functional.mse_loss if is_numbers else nn.functional.cross_entropy
    metrics = Metrics(*(of_numbers() if is_numbers else of_classes()), on="both")
    data = Data.from_tensors(inputs, targets, 4, valid=(inputs[:n_items], targets[:n_items]), seed=0)
    learn = Learner(model, data, loss, partial(torch.optim.SGD, lr=0.1), [metrics, *callbacks])
    learn.fit(2)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in learn.history]


def in_one_rank(is_numbers: bool, n_items: int) -> list[dict[str, Any]]:
    return measured(is_numbers, n_items, Distributed())


def flat(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        f"{n} {name} {part}": each
        for n, row in enumerate(rows)
        for name, value in row.items()
        for part, each in enumerate(value if isinstance(value, list) else [value])
    }


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics.utilities.prints")
@pytest.mark.parametrize(("is_numbers", "size", "n_items"), [(True, 2, 9), (False, 3, 2)])
def test_metrics_are_those_of_one_process_and_equal_on_all_ranks(is_numbers, size, n_items) -> None:
    """In validation, rank 1 of 2 has no item of the last batch, and rank 2 of 3 none at all."""
    first, *others = in_ranks(size, in_one_rank, is_numbers, n_items)
    assert all(str(each) == str(first) for each in others)
    expected = flat(measured(is_numbers, n_items))
    assert flat(first) == pytest.approx(expected, rel=2e-5, abs=1e-5, nan_ok=True)
    assert len(expected) > 40


def unmerged_is_refused() -> str:
    data = [(torch.zeros(4, 1), torch.zeros(4, 1))]
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(
        nn.Linear(1, 1), (data, data), nn.functional.mse_loss, sgd, [Distributed()], metrics=[Unmerged()]
    )
    with pytest.raises(TypeError) as caught:
        learn.fit(1)
    assert learn.batch is None
    return str(caught.value)


def test_a_metric_that_cannot_be_merged_is_refused_before_the_first_batch() -> None:
    for message in in_ranks(2, unmerged_is_refused):
        assert message.startswith("the metric unmerged: Unmerged has no method merge")
        assert "Add def merge(self, other)" in message


class CountItems(Callback):
    """Counts the items of validation; `is_whole`: those of all processes."""

    def __init__(self, is_whole: bool):
        super().__init__()
        self.is_whole, self.n = is_whole, 0

    def before_validate(self, learn: Any) -> None:
        self.n = 0

    def after_batch(self, learn: Any) -> None:
        self.n += 0 if learn.training else len(learn.targets)

    def after_validate(self, learn: Any) -> None:
        learn.results["n_counted"] = sum(learn.ranks.gather(self.n)) if self.is_whole else self.n
        learn.results["n_nothing"] = math.nan  # which is the same on all ranks, and does not equal itself


def counted(is_whole: bool) -> tuple[int, list[str]]:
    x = torch.rand(7, 2)
    data = Data.from_tensors(x, x.sum(1, keepdim=True), 4, valid=(x[:3], x[:3, :1]), seed=0)
    callbacks = [Distributed(), Timer(), CountItems(is_whole)]
    learn = Learner(nn.Linear(2, 1), data, nn.MSELoss(), partial(torch.optim.SGD, lr=0.1), callbacks)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        learn.fit(2)
    return learn.results["n_counted"], [str(each.message) for each in shown]


def test_a_result_that_a_callback_counts_in_its_own_part_is_reported_once() -> None:
    (count, (words,)), (other, silence) = in_ranks(2, counted, False)
    assert (count, other, silence) == (2, 2, [])
    assert "learn.results['n_counted'] differs between the processes (2, 1)" in words
    assert "sum(learn.ranks.gather(value))" in words


def test_a_result_that_a_callback_combines_is_that_of_all_items() -> None:
    assert in_ranks(2, counted, True) == [(3, []), (3, [])]
