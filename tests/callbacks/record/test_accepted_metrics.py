"""What is accepted as a metric, and what is refused with a hint."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torchmetrics
from ground.uneven import DEFAULTS, class_batches, regress, uneven_batches
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional as F

from callbacks import MAE, R2, RMSE, Metrics, accuracy
from callbacks.measures.as_metrics import named_metrics
from learner import Data, Learner

OWN = {"epoch", "seconds", "lr", "train_loss", "valid_loss"}


def classify(*metrics, on="valid", n_classes=3):
    torch.manual_seed(0)
    data = Data(class_batches(4, 3), class_batches(5, 2, 1, seed=1))
    learn = Learner(
        nn.Linear(3, n_classes),
        data,
        F.cross_entropy,
        partial(torch.optim.SGD, lr=0.1),
        callbacks=[Metrics(*metrics, on=on)],
        defaults=DEFAULTS,
    )
    learn.fit(1)
    return learn


CLASSIFICATION = [
    torchmetrics.classification.MulticlassAccuracy(3),
    torchmetrics.classification.MulticlassF1Score(3, average="macro"),
    torchmetrics.classification.MulticlassPrecision(3),
    torchmetrics.classification.MulticlassRecall(3),
    torchmetrics.classification.MulticlassAUROC(3),
    torchmetrics.classification.MulticlassCohenKappa(3),
    torchmetrics.classification.MulticlassMatthewsCorrCoef(3),
]


REGRESSION = [
    torchmetrics.MeanSquaredError(),
    torchmetrics.MeanAbsoluteError(),
    torchmetrics.ExplainedVariance(),
    torchmetrics.PearsonCorrCoef(),
    torchmetrics.ConcordanceCorrCoef(),
]


@pytest.mark.parametrize("metric", CLASSIFICATION, ids=lambda metric: type(metric).__name__)
@pytest.mark.filterwarnings("ignore:No .* samples:UserWarning")
def test_torchmetrics_of_classes_are_accepted_unchanged(metric):
    learn = classify(copy.deepcopy(metric))
    preds, targets = learn.get_preds()
    metric.reset()
    metric.update(preds, targets)
    found = {name: value for name, value in learn.history[-1].items() if name.startswith("valid_multiclass")}
    assert list(found.values()) == [pytest.approx(metric.compute().item(), rel=1e-5)]


@pytest.mark.parametrize("metric", REGRESSION, ids=lambda metric: type(metric).__name__)
def test_torchmetrics_of_numbers_are_accepted_unchanged(metric):
    learn = regress(copy.deepcopy(metric))
    preds, targets = learn.get_preds()
    metric.reset()
    metric.update(preds, targets)
    found = [value for name, value in learn.history[-1].items() if name not in OWN]
    assert found == [pytest.approx(metric.compute().item(), rel=1e-5)]


def test_a_metric_per_class_is_a_list():
    learn = classify(torchmetrics.classification.MulticlassRecall(3, average=None))
    value = learn.history[-1]["valid_multiclass_recall"]
    assert isinstance(value, list)
    assert len(value) == 3


def test_a_collection_gives_each_metric_by_name_and_names_them_before_the_first_epoch():
    collection = torchmetrics.MetricCollection(
        {
            "MAE": torchmetrics.MeanAbsoluteError(),
            "mse": torchmetrics.MeanSquaredError(),
            "explained": torchmetrics.ExplainedVariance(),
        },
        prefix="my_",
    )
    learn = regress(collection, on="both")
    names = {f"{each}_my_{name}" for each in ("train", "valid") for name in ("mae", "mse", "explained")}
    assert names <= set(learn.history[-1])
    assert names <= set(learn.measured)
    assert (learn.measured["valid_my_mse"], learn.measured["valid_my_explained"]) == ("min", "max")


def test_a_classwise_wrapper_gives_each_class_by_name():
    wrapper = torchmetrics.ClasswiseWrapper(
        torchmetrics.classification.MulticlassRecall(3, average=None), labels=["cat", "dog", "eel"]
    )
    learn = classify(wrapper)
    assert {"valid_multiclassrecall_cat", "valid_multiclassrecall_eel"} <= set(learn.history[-1])


def test_functions_partials_classes_and_loss_modules_are_metrics():
    def bias(preds, targets):
        return (preds - targets).mean()

    def shifted(preds, targets, by):
        return (preds - targets).mean().item() + by

    learn = regress(bias, partial(shifted, by=2.0), RMSE, nn.L1Loss(), torchmetrics.MeanAbsoluteError)
    row = learn.history[-1]
    assert row["valid_shifted"] == pytest.approx(row["valid_bias"] + 2)
    assert row["valid_l1_loss"] == pytest.approx(row["valid_mean_absolute_error"], rel=1e-6)
    assert "valid_rmse" in row


def test_the_direction_comes_with_the_metric():
    learn = regress(MAE, R2, nn.L1Loss())
    assert learn.measured["valid_mae"] == "min"
    assert learn.measured["valid_r2"] == "max"
    assert learn.measured["valid_l1_loss"] is None
    assert classify(accuracy).measured["valid_accuracy"] == "max"


def test_accuracy_finds_the_classes_in_the_last_dimension_and_leaves_out_targets_below_0():
    preds, targets = torch.rand(4, 7, 5), torch.randint(5, (4, 7)).masked_fill(torch.rand(4, 7) < 0.3, -100)
    counted = targets >= 0
    right = (preds.argmax(-1) == targets)[counted].float().mean()
    assert accuracy(preds, targets) == accuracy(preds.movedim(-1, 1), targets) == right


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda preds, targets: 0, "has no name"),
        (partial(lambda preds, targets, k: 0, k=1), "has no name"),
        ("accuracy", r"is not a metric: pass a function.*from callbacks import accuracy\.$"),
        ("rmse", "pass the object itself: from callbacks import RMSE"),
        (None, "is not a metric"),
        ([RMSE()], "one by one, not in a list"),
        (nn.L1Loss, r"is not a metric: .* Pass an instance, L1Loss\(\)"),
        (torchmetrics.ClasswiseWrapper, r"needs arguments .*pass ClasswiseWrapper\(\.\.\.\)"),
    ],
    ids=[
        "lambda",
        "partial of a lambda",
        "string",
        "name of ours",
        "None",
        "list",
        "class of a loss",
        "class with arguments",
    ],
)
def test_what_is_not_a_metric_is_refused(metric, words):
    with pytest.raises(TypeError, match=words):
        Metrics(metric)


def test_a_function_that_takes_targets_first_is_refused_with_the_line_that_turns_it_round():
    with pytest.raises(ValueError, match=r"r2_score takes 'y_true' first.*return r2_score\(targets, preds\)"):
        Metrics(r2_score)


def test_a_metric_called_as_the_loss_is_refused():
    def loss(preds, targets):
        return 0

    with pytest.raises(ValueError, match="named 'loss', like the loss itself"):
        Metrics(loss)


def test_a_single_metric_need_not_be_a_list():
    def bias(preds, targets):
        return (preds - targets).mean()

    for metric in (RMSE(), bias, torchmetrics.MeanSquaredError()):
        learn = Learner(nn.Linear(3, 1), Data(uneven_batches(3)), F.mse_loss, metrics=metric)
        assert learn.metrics == (metric,)


@pytest.mark.parametrize("metrics", ["accuracy", 3, {"rmse": RMSE()}])
def test_metrics_that_are_not_a_list_are_refused(metrics):
    with pytest.raises(
        TypeError, match=r"(?s)metrics=.*: pass a list of metrics, as in metrics=\[RMSE\(\)\]"
    ):
        Learner(nn.Linear(3, 1), Data(uneven_batches(3)), F.mse_loss, metrics=metrics)


def test_two_metrics_of_one_name_are_refused_until_one_is_renamed():
    second = RMSE()
    with pytest.raises(ValueError, match=r"2 metrics are named 'rmse'.*metric\.name = 'my_rmse'"):
        Metrics(RMSE(), second)
    second.name = "other"
    assert list(named_metrics((RMSE(), second))) == ["rmse", "other"]


def test_a_lambda_with_a_name_is_a_metric():
    bias = lambda preds, targets: (preds - targets).mean()  # noqa: E731
    bias.name = "Bias"
    assert "valid_bias" in regress(bias).history[-1]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.zeros(5), ValueError, r"the metric bad returned a tensor of shape \(5,\).*mean"),
        (None, TypeError, "the metric bad returned None for a batch: return one number"),
        ("good", TypeError, "returned 'good'"),
    ],
)
def test_a_function_that_gives_no_number_is_named(value, error, words):
    def bad(preds, targets):
        return value

    with pytest.raises(error, match=words):
        regress(bad)
