"""Which passes and batches a metric measures."""

from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torchmetrics
from ground.uneven import DEFAULTS, class_batches, regress, uneven_batches
from torch import nn
from torch.nn import functional as F

from callbacks import MAE, MSE, RMSE, Callback, LearnerWarning, Metrics, Progress, accuracy
from callbacks.measures.as_metrics import as_metric
from learner import Data, Learner


@pytest.mark.parametrize(
    ("on", "names"),
    [
        ("valid", {"valid_mae"}),
        ("train", {"train_mae"}),
        ("both", {"train_mae", "valid_mae"}),
    ],
)
def test_metrics_are_measured_in_the_passes_asked_for(on, names):
    learn = regress(MAE(), on=on)
    losses = {"train_loss", "valid_loss", "lr"}
    assert set(learn.history[-1]) - {"epoch", "seconds"} == losses | names
    assert set(learn.measured) == losses | names


def test_on_both_measures_the_two_passes_separately():
    learn = regress(MSE(), on="both")
    assert learn.history[-1]["valid_mse"] == pytest.approx(learn.history[-1]["valid_loss"], rel=1e-6)
    assert learn.history[-1]["train_mse"] == pytest.approx(learn.history[-1]["train_loss"], rel=1e-6)


def test_on_train_the_object_that_was_given_is_the_one_that_measures():
    metric = MSE()
    learn = regress(metric, on="train")
    assert metric.compute() == pytest.approx(learn.history[-1]["train_mse"])


def test_an_unknown_pass_is_refused():
    with pytest.raises(
        ValueError, match=r"Metrics\(on='validation'\): on must be 'valid', 'train' or 'both'"
    ):
        Metrics(on="validation")


def test_outputs_with_logits_are_measured_by_them():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x, labels):
            logits = self.linear(x)
            return SimpleNamespace(logits=logits, loss=F.cross_entropy(logits, labels))

    batches = [{"x": inputs, "labels": targets} for inputs, targets in class_batches(5, 2)]
    model = Wrapped()
    learn = Learner(
        model,
        (batches, batches),
        None,
        partial(torch.optim.SGD, lr=0.1),
        [Metrics(accuracy)],
        defaults=DEFAULTS,
    )
    results = learn.validate()
    right = sum((model.linear(batch["x"]).argmax(1) == batch["labels"]).sum().item() for batch in batches)
    assert results["valid_accuracy"] == pytest.approx(right / 7)


def test_metrics_see_outputs_without_their_graph():
    seen = []

    class Pair(nn.Linear):
        def forward(self, inputs):
            output = super().forward(inputs)
            return output, [output]

    def first_error(preds, targets):
        seen.append(preds[0].requires_grad or preds[1][0].requires_grad)
        return (preds[0] - targets).abs().mean()

    learn = Learner(
        Pair(3, 1),
        Data(uneven_batches(4, 3)),
        lambda preds, targets: F.mse_loss(preds[0], targets),
        partial(torch.optim.SGD, lr=0.1),
        [Metrics(first_error, on="train")],
        defaults=DEFAULTS,
    )
    learn.fit(1)
    assert seen == [False, False]


def test_functions_are_weighted_by_the_learners_items_also_without_targets():
    class SumLoss(nn.Linear):
        def forward(self, inputs):
            output = super().forward(inputs)
            return SimpleNamespace(loss=output.mean(), whole=output)

    def mean_output(preds, targets):
        return preds.whole.mean()

    batches = [torch.ones(5, 3), torch.zeros(1, 3)]
    learn = Learner(
        SumLoss(3, 1),
        Data(batches, batches),
        None,
        partial(torch.optim.SGD, lr=0.0),
        [Metrics(mean_output)],
        defaults=DEFAULTS,
    )
    results = learn.validate()
    assert results["valid_mean_output"] == pytest.approx(results["valid_loss"], rel=1e-6)


def test_an_empty_validation_of_unknown_length_is_reported_and_writes_nothing():
    data = Data(uneven_batches(3), lambda: iter(()))
    learn = Learner(
        nn.Linear(3, 1),
        data,
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        [Metrics(RMSE())],
        defaults=DEFAULTS,
    )
    with pytest.warns(LearnerWarning, match="validation data yielded no batch"):
        assert learn.validate() == {}


def test_an_empty_batch_has_no_weight():
    filled = uneven_batches(3, 2, seed=1)
    learn = regress(MSE())
    results = learn.validate([filled[0], (torch.ones(0, 3), torch.ones(0, 1)), filled[1]])
    assert results == learn.validate(filled)
    assert results["valid_loss"] > 0


def test_hooks_that_empty_the_batch_do_not_make_an_empty_validation(recwarn):
    class Empties(Callback):
        def after_batch(self, learn):
            learn.batch = None

    regress(callbacks=[Empties()])
    assert not recwarn.list


def test_validating_in_the_middle_of_a_training_pass_does_not_disturb_its_numbers():
    class ValidateInBatch(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.validate()

    plain = regress(MSE(), MAE(), on="both", n_epochs=2)
    nested = regress(MSE(), MAE(), on="both", n_epochs=2, callbacks=[ValidateInBatch()])
    assert [without_time(row) for row in plain.history] == [without_time(row) for row in nested.history]


def test_a_second_fit_starts_measuring_again():
    twice = regress(MSE(), torchmetrics.MeanAbsoluteError(), on="both")
    twice.fit(1)
    at_once = regress(MSE(), torchmetrics.MeanAbsoluteError(), on="both", n_epochs=2)
    keep = [{name: row[name] for name in row if name not in ("epoch", "seconds")} for row in twice.history]
    assert keep == [
        {name: row[name] for name in row if name not in ("epoch", "seconds")} for row in at_once.history
    ]


def without_time(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_copy_in_the_middle_of_a_pass_measures_on_its_own():
    class CopyMetrics(Callback):
        def after_batch(self, learn):
            self.copy = copy.deepcopy(learn.callbacks[Metrics])

    keep = CopyMetrics()
    learn = regress(MSE(), torchmetrics.MeanAbsoluteError(), callbacks=[keep])
    copied = keep.copy
    assert copied is not learn.callbacks[Metrics]
    found = copied._passes["valid"].compute()
    assert found["valid_mse"] == learn.history[-1]["valid_mse"]


def test_the_rate_at_the_end_of_training_is_written_where_the_optimizer_has_one():
    class NoRate(torch.optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            del self.param_groups[0]["lr"]

        def step(self, closure=None):
            pass

    data = Data(uneven_batches(3))
    learn = Learner(nn.Linear(3, 1), data, F.mse_loss, NoRate, [Metrics()], defaults=DEFAULTS[:1])
    learn.fit(1)
    assert "lr" not in learn.results
    assert regress().results["lr"] == 0.1


def test_the_same_correct_predictions_in_other_batches_give_the_same_accuracy():
    """Means of float32 batch means differ in their last digits; counts do not."""
    scores = torch.eye(2)[torch.arange(200) % 2]
    targets = torch.where(torch.arange(200) < 131, torch.arange(200) % 2, 1 - torch.arange(200) % 2)
    for order in (torch.arange(200), torch.randperm(200), torch.arange(200).flip(0)):
        for size in (7, 64, 200):
            metric = as_metric(accuracy)
            for chosen in order.split(size):
                metric.update(scores[chosen], targets[chosen])
            assert metric.compute() == 0.655


def test_the_accuracy_of_empty_batches_is_nan():
    metric = as_metric(accuracy)
    metric.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert math.isnan(metric.compute())


def test_a_fit_counts_accuracy_exactly_under_its_own_name():
    inputs, targets = torch.zeros(200, 1), (torch.arange(200) < 131).long()
    data = Data.from_tensors(inputs, targets, batch_size=7, valid=(inputs.clone(), targets.clone()))
    model = nn.Linear(1, 2)
    nn.init.constant_(model.weight, 0)
    model.bias.data = torch.tensor([-9.0, 9.0])  # says 1 of each item: 131 of 200 are right
    sgd = partial(torch.optim.SGD, lr=1e-30)  # moves nothing
    learn = Learner(model, data, F.cross_entropy, sgd, metrics=[accuracy], defaults=DEFAULTS)
    assert learn.fit(2)["valid_accuracy"] == [0.655, 0.655]


@pytest.mark.parametrize(
    ("valid", "callbacks", "is_printed"),
    [
        (False, [Metrics(MAE()), Progress()], True),
        (False, [Metrics(MAE(), on="both"), Progress()], False),
        (False, [Metrics(), Progress()], False),
        (False, [Metrics(MAE())], False),  # nobody looks at the fit
        (True, [Metrics(MAE()), Progress()], False),
    ],
    ids=["no data", "in training", "no metrics", "no display", "data"],
)
def test_metrics_without_validation_data_are_named_once(make_learner, capsys, valid, callbacks, is_printed):
    learn = make_learner(valid=valid, callbacks=callbacks)
    learn.fit(1)
    learn.fit(1)
    assert capsys.readouterr().out.count("no validation data, so mae will not be measured") == is_printed
