"""Metrics of torchmetrics, passed unchanged, have the same value as over all the data at once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchmetrics
from resumed import Crash
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassCalibrationError,
    MulticlassCohenKappa,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MulticlassRecall,
)
from torchmetrics.regression import (
    ExplainedVariance,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
)

from callbacks import Checkpoint, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

pytestmark = pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef`:UserWarning")

SIZES = (7, 7, 7, 2, 5, 1)  # of the batches: uneven, one of a single item

CLASSIFICATION = {
    "accuracy": lambda: MulticlassAccuracy(3, average="macro"),
    "f1": lambda: MulticlassF1Score(3),
    "recall": lambda: MulticlassRecall(3, average="none"),
    "auroc": lambda: MulticlassAUROC(3),
    "average_precision": lambda: MulticlassAveragePrecision(3),
    "kappa": lambda: MulticlassCohenKappa(3),
    "matthews": lambda: MulticlassMatthewsCorrCoef(3),
    "calibration": lambda: MulticlassCalibrationError(3),
    "confusion": lambda: MulticlassConfusionMatrix(3),
}
REGRESSION = {
    "mse": MeanSquaredError,
    "mape": MeanAbsolutePercentageError,
    "r2": R2Score,
    "explained": ExplainedVariance,
    "pearson": PearsonCorrCoef,
    "spearman": SpearmanCorrCoef,
}
BY_SUMS = {"mse", "mape", "r2", "explained", "pearson"}  # added up by batch, so rounded in another order
ALL = {**CLASSIFICATION, **REGRESSION}


def batches(kind: str, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in SIZES:
        inputs = torch.rand(size, 4, generator=generator)
        targets = inputs.sum(1) if kind in REGRESSION else torch.randint(3, (size,), generator=generator)
        found.append((inputs, targets))
    return found


class Line(nn.Module):
    """A model with one output per item."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 1)

    def forward(self, inputs):
        return self.line(inputs).squeeze(-1)


def make(kind: str, metric, on: str, *callbacks) -> Learner:
    torch.manual_seed(0)
    model = Line() if kind in REGRESSION else nn.Linear(4, 3)
    loss = F.mse_loss if kind in REGRESSION else F.cross_entropy
    metric.name = kind
    data = Data(batches(kind, 0), batches(kind, 1))
    defaults = (ZeroGrad, Metrics(metric, on=on), Recorder)
    return Learner(model, data, loss, partial(torch.optim.SGD, lr=0.0), callbacks, defaults=defaults)


@pytest.mark.filterwarnings("ignore:lr is 0")
@pytest.mark.parametrize("kind", ALL)
def test_a_torchmetrics_object_measures_the_same_as_over_all_the_data_at_once(kind):
    learn = make(kind, ALL[kind](), "both")
    learn.fit(1)
    for name, seed in (("train", 0), ("valid", 1)):
        inputs, targets = (torch.cat(parts) for parts in zip(*batches(kind, seed), strict=True))
        with torch.no_grad():
            preds = learn.model(inputs)
        whole = ALL[kind]()
        whole.update(preds, targets)
        by_batch = ALL[kind]()
        for part_inputs, part_targets in batches(kind, seed):
            with torch.no_grad():
                by_batch.update(learn.model(part_inputs), part_targets)
        ours = torch.tensor(learn.history[-1][f"{name}_{kind}"])
        assert torch.equal(ours, by_batch.compute().to(ours.dtype))
        tolerance = 1e-4 if kind in BY_SUMS else 1e-6
        torch.testing.assert_close(ours, whole.compute().to(ours.dtype), rtol=tolerance, atol=1e-6)


@pytest.mark.filterwarnings("ignore:lr is 0")
@pytest.mark.parametrize("crash_at", [2, 4, 8, 11])
@pytest.mark.parametrize("kind", ["auroc", "f1", "pearson", "spearman"])
def test_the_counts_survive_an_interruption(kind, crash_at, tmp_path):
    whole = make(kind, ALL[kind](), "both")
    whole.fit(1)
    crashed = make(kind, ALL[kind](), "both", Checkpoint(tmp_path / "run", "1 step"), Crash(crash_at))
    with pytest.raises(ZeroDivisionError):
        crashed.fit(1)
    again = make(kind, ALL[kind](), "both", Checkpoint(tmp_path / "run", "1 step"))
    again.fit(1, resume="must")
    for name in ("train", "valid"):
        assert again.history[-1][f"{name}_{kind}"] == whole.history[-1][f"{name}_{kind}"]


@pytest.mark.filterwarnings("ignore:lr is 0")
def test_in_a_collection_each_metric_has_its_name():
    collection = torchmetrics.MetricCollection([MeanSquaredError(), R2Score()])
    learn = make("mse", collection, "valid")
    learn.fit(1)
    assert {"valid_mean_squared_error", "valid_r2_score"} <= set(learn.history[-1])
