"""Metrics have the values of torchmetrics and of hand-written code, on batches of uneven size."""

from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional as F

from callbacks import MAE, MSE, R2, RMSE, Callback, LearnerWarning, Metrics, Recorder, ZeroGrad, accuracy
from callbacks.measures.as_metrics import as_metric, named_metrics
from learner import Data, Learner

DEFAULTS = (ZeroGrad, Recorder)
OWN = {"epoch", "seconds", "lr", "train_loss", "valid_loss"}
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 2)


def uneven_batches(*sizes: int, n_outputs: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, generator=generator), torch.randn(n, n_outputs, generator=generator))
        for n in sizes
    ]


def class_batches(*sizes: int, n_classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, generator=generator), torch.randint(n_classes, (n,), generator=generator))
        for n in sizes
    ]


def regress(*metrics, on="valid", train=(4, 3), valid=(5, 2, 1), n_outputs=1, callbacks=(), n_epochs=1):
    torch.manual_seed(0)
    data = Data(
        uneven_batches(*train, n_outputs=n_outputs), uneven_batches(*valid, n_outputs=n_outputs, seed=1)
    )
    learn = Learner(
        nn.Linear(3, n_outputs),
        data,
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        callbacks=[Metrics(*metrics, on=on), *callbacks],
        defaults=DEFAULTS,
    )
    learn.fit(n_epochs)
    return learn


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


def test_r2_of_targets_that_do_not_vary_is_one_where_all_are_hit_and_else_zero():
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


def test_accuracy_takes_logits_for_yes_or_no_class_numbers_and_segmentation_scores():
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
    with pytest.raises(ValueError, match=r"shape \(4, 1\) against targets of shape \(4,\).*squeeze"):
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


def test_on_both_the_two_passes_do_not_mix():
    learn = regress(MSE(), on="both")
    assert learn.history[-1]["valid_mse"] == pytest.approx(learn.history[-1]["valid_loss"], rel=1e-6)
    assert learn.history[-1]["train_mse"] == pytest.approx(learn.history[-1]["train_loss"], rel=1e-6)


def test_on_train_the_object_that_was_given_is_the_one_that_measures():
    metric = MSE()
    learn = regress(metric, on="train")
    assert metric.compute() == pytest.approx(learn.history[-1]["train_mse"])


def test_a_word_for_on_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"Metrics\(on='validation'\): pass 'valid', 'train' or 'both'"):
        Metrics(on="validation")


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


def test_accuracy_of_scores_with_the_classes_last_gets_a_hint_on_what_to_write():
    preds, targets = torch.rand(4, 7, 5), torch.randint(5, (4, 7))
    with pytest.raises(ValueError, match=r"accuracy\(preds.movedim\(-1, 1\), targets\)"):
        accuracy(preds, targets)
    assert accuracy(preds.movedim(-1, 1), targets) == (preds.argmax(-1) == targets).float().mean()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda preds, targets: 0, "has no name"),
        (partial(lambda preds, targets, k: 0, k=1), "has no name"),
        ("accuracy", "is not a metric: pass a function"),
        ("rmse", "as from callbacks import RMSE"),
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

    with pytest.raises(ValueError, match="called 'loss', as the loss itself"):
        Metrics(loss)


def test_a_single_metric_need_not_be_a_list():
    def bias(preds, targets):
        return (preds - targets).mean()

    for metric in (RMSE(), bias, torchmetrics.MeanSquaredError()):
        learn = Learner(nn.Linear(3, 1), Data(uneven_batches(3)), F.mse_loss, metrics=metric)
        assert learn.metrics == (metric,)


@pytest.mark.parametrize("metrics", ["accuracy", 3])
def test_metrics_that_are_not_a_list_are_refused(metrics):
    with pytest.raises(
        TypeError, match=r"(?s)metrics=.*: pass a list of metrics, as in metrics=\[RMSE\(\)\]"
    ):
        Learner(nn.Linear(3, 1), Data(uneven_batches(3)), F.mse_loss, metrics=metrics)


def test_two_metrics_of_one_name_are_refused_until_one_is_renamed():
    second = RMSE()
    with pytest.raises(ValueError, match=r"2 metrics are called 'rmse'.*metric\.name = 'my_rmse'"):
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


def test_an_empty_batch_counts_for_nothing():
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


def test_a_second_fit_measures_from_scratch():
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


def test_the_same_right_answers_in_other_batches_give_the_same_accuracy():
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
