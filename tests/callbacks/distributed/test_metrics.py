"""Several processes measure what one process measures."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from ranks.in_ranks import in_ranks
from torch import Tensor, nn

import callbacks
from callbacks import Metrics, whole_pass
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
