"""Errors suggest a fix, and the fix works."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny import notes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from callbacks import RMSE, EarlyStopping, Metrics, Recorder, ReduceLROnPlateau, ZeroGrad, accuracy
from learner import Data, Learner

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
CLASSES = (X[:, 0] > 0).long()
WEIGHTS = X[:, 1].abs()
SGD = partial(torch.optim.SGD, lr=0.05)


def make(model, data, loss, *metrics, callbacks=()):
    torch.manual_seed(0)
    return Learner(model, data, loss, SGD, callbacks, metrics, defaults=(ZeroGrad, Metrics, Recorder))


#: What models, losses and metrics raise for an argument of the wrong type.
SLIPS = (AttributeError, TypeError, ValueError, RuntimeError, ZeroDivisionError)


def error_of(learn, act=lambda learn: learn.fit(1)):
    """The notes of the error that a function raises."""
    with pytest.raises(SLIPS) as caught:
        act(learn)
    return notes(caught.value)


# Metrics of several outputs or targets


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x):
        return self.first(x), self.second(x)


def two_losses(preds, targets):
    return F.mse_loss(preds[0], targets) + preds[1].pow(2).mean()


def weighted(preds, targets, weights):
    return (F.cross_entropy(preds, targets, reduction="none") * weights).mean()


def distance(preds, targets):
    return (preds - targets).abs().mean()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (RMSE(), r"class MyRMSE(RMSE): def update(self, preds, targets): super().update(preds[0], targets)"),
        (distance, "def my_distance(preds, targets): return distance(preds[0], targets)"),
    ],
)
def test_a_metric_of_one_output_gets_a_hint_on_choosing_among_several(metric, words):
    found = error_of(make(TwoHeads(), Data.from_tensors(X, X[:, :1], 4), two_losses, metric))
    assert "the metric received preds, a tuple of 2" in found
    assert words in found


def test_a_metric_of_one_target_gets_a_hint_on_choosing_among_several():
    data = Data.from_tensors(X, (CLASSES, WEIGHTS), 4)
    found = error_of(make(nn.Linear(3, 2), data, weighted, accuracy))
    assert "def my_accuracy(preds, targets): return accuracy(preds, targets[0])" in found


def test_the_fixes_that_the_messages_suggest_work():
    class MyRMSE(RMSE):
        def update(self, preds, targets):
            super().update(preds[0], targets)

    def my_accuracy(preds, targets):
        return accuracy(preds, targets[0])

    learn = make(TwoHeads(), Data.from_tensors(X, X[:, :1], 4), two_losses, MyRMSE())
    assert "valid_my_rmse" in learn.fit(1)[0]
    learn = make(nn.Linear(3, 2), Data.from_tensors(X, (CLASSES, WEIGHTS), 4), weighted, my_accuracy)
    assert "valid_my_accuracy" in learn.fit(1)[0]


def test_a_metric_that_takes_several_targets_gets_them_one_by_one_like_the_loss():
    def cost(preds, targets, weights):
        return weighted(preds, targets, weights)

    row = make(nn.Linear(3, 2), Data.from_tensors(X, (CLASSES, WEIGHTS), 4), weighted, cost).fit(1)[0]
    assert row["valid_cost"] == pytest.approx(row["valid_loss"])


def test_an_error_in_a_metric_of_one_output_and_target_has_no_such_note():
    def broken(preds, targets):
        raise ZeroDivisionError

    assert "my_broken" not in error_of(
        make(nn.Linear(3, 1), Data.from_tensors(X, X[:, :1]), F.mse_loss, broken)
    )


# A last batch of one


def norm_net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def loader_of(n, **options):
    items = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(items, items.sum(1, keepdim=True))
    return DataLoader(data, 8, sampler=SubsetRandomSampler(range(n)), **options)


def tensors(**options):
    return Data.from_tensors(torch.rand(33, 3), torch.rand(33, 1), 8, valid=None, **options)


LEFT_OVER = {
    "tensors": tensors,
    "sampler": lambda: Data(loader_of(17)),
    "list": lambda: Data([(torch.rand(n, 3), torch.rand(n, 1)) for n in (8, 8, 1)]),
}


@pytest.mark.parametrize("kind", LEFT_OVER)
def test_a_last_batch_of_one_item_with_batch_norm_is_found_by_check_and_explained_by_the_error(kind, capsys):
    learn = make(norm_net(), LEFT_OVER[kind](), F.mse_loss)
    report = learn.check()
    assert any("on which batch norm will fail" in each for each in report.warnings)
    found = error_of(learn)
    assert "batch norm cannot normalize one item" in found
    assert ("leave it out" if kind == "list" else "drop_last=True") in found


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (
            norm_net,
            lambda: Data.from_tensors(torch.rand(33, 3), torch.rand(33, 1), 8, valid=None, drop_last=True),
        ),
        (norm_net, lambda: Data(loader_of(18))),
        (norm_net, lambda: Data(loader_of(17, drop_last=True))),
        (lambda: nn.Linear(3, 1), LEFT_OVER["tensors"]),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(3, 1)),
            LEFT_OVER["tensors"],
        ),
    ],
    ids=["dropped", "two left", "dropped by the loader", "no norm", "several values per channel"],
)
def test_check_does_not_warn_about_a_batch_of_one_item_that_trains(model, data, capsys):
    learn = make(model(), data(), F.mse_loss)
    assert not any("batch norm" in each for each in learn.check().warnings)
    learn.fit(1)


# Losses in training only


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x, targets):
        found = self.linear(x)
        return {"a": F.mse_loss(found, targets), "b": found.abs().mean()} if self.training else list(found)


def total(preds, targets=None):
    return sum(preds.values())


def total_in_training(preds, targets):
    return sum(preds.values()) if isinstance(preds, dict) else None


def detection(**options):
    batches = [(x, y) for x, y in zip(X.split(5), X[:, :1].split(5), strict=True)]
    return Data(batches, list(batches), **options)


def test_a_loss_that_fails_in_validation_only_gets_a_hint_on_what_to_return():
    found = error_of(make(Detector(), detection(n_inputs=2), total))
    assert "return None from the loss function" in found
    assert "if isinstance(preds, dict) else None" in found


def test_without_a_loss_in_validation_metrics_are_measured_and_no_valid_loss():
    def error(preds, targets):
        return sum((found - wanted).abs().sum() for found, wanted in zip(preds, targets, strict=True)) / len(
            targets
        )

    error.higher_is_better = False
    data = detection(split=lambda batch: (batch, batch[1]))
    learn = make(Detector(), data, total_in_training, error, callbacks=[EarlyStopping("valid_error")])
    row = learn.fit(2)[-1]
    assert "valid_loss" not in row
    assert row["valid_error"] == pytest.approx(learn.validate()["valid_error"], rel=0.2)
    expected = sum(error(learn.model.eval()(x, y), y) * 5 for x, y in data.valid).item() / 10
    assert learn.validate() == {"valid_error": pytest.approx(expected)}


@pytest.mark.parametrize("watch", [EarlyStopping, ReduceLROnPlateau])
def test_a_monitor_of_a_missing_loss_is_refused_after_the_first_epoch(watch):
    learn = make(Detector(), detection(n_inputs=2), total_in_training, callbacks=[watch("valid_loss")])
    with pytest.raises(ValueError, match=r"no result has that name.*train_loss"):
        learn.fit(3)
    assert learn.epoch == 0


def test_a_loss_function_of_one_argument_gets_a_hint_on_how_it_is_called():
    found = error_of(make(Detector(), detection(n_inputs=2), lambda preds: sum(preds.values())))
    assert "write lambda preds, targets: loss(preds)" in found


def test_a_tuple_with_one_target_per_item_gets_a_hint_to_make_it_a_list():
    batches = [(X[:4], tuple({"y": each} for each in X[:4, 0]))]

    def loss(preds, targets):
        return F.mse_loss(preds, torch.stack([each["y"] for each in targets])[:, None])

    assert "make it a list" in error_of(make(nn.Linear(3, 1), Data(batches), loss))
    learn = make(nn.Linear(3, 1), Data(batches, split=lambda batch: (batch[0], list(batch[1]))), loss)
    assert len(learn.fit(1)) == 1


def test_the_number_of_items_of_a_pass_is_that_of_its_sampler():
    assert "17 items in batches of 8 leave 1" in error_of(make(norm_net(), Data(loader_of(17)), F.mse_loss))


class Slope(nn.Module):
    """A model that differentiates its own output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, inputs):
        inputs = inputs.detach().requires_grad_()
        return torch.autograd.grad(self.layers(inputs).sum(), inputs, create_graph=True)[0]


class SlopeAlways(Slope):
    def forward(self, inputs):
        with torch.enable_grad():
            return super().forward(inputs)


def test_a_model_that_differentiates_in_validation_is_reported_with_a_fix_that_works():
    batch, sgd = (torch.randn(4, 1), torch.randn(4, 1)), partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(RuntimeError) as caught:
        Learner(Slope(), Data([batch], [batch]), F.mse_loss, sgd).fit(1)
    assert "where the model or the loss differentiates, write `with torch.enable_grad():`" in notes(
        caught.value
    )
    learn = Learner(SlopeAlways(), Data([batch], [(batch[0] + 1, batch[1])]), F.mse_loss, sgd)
    learn.fit(1)
    assert learn.predict(batch[0]).shape == (4, 1)


# A loss of torch and an output that is not a tensor


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.layer, self.output = nn.Linear(3, 2), output

    def forward(self, x):
        return self.output(self.layer(x))


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        (lambda scores: None, "The model returns None: does its forward end with `return`?"),
        (lambda scores: {"logits": scores}, "lambda preds, targets: cross_entropy(preds['logits'], targets)"),
        (lambda scores: (scores, 0), "lambda preds, targets: cross_entropy(preds[0], targets)"),
    ],
    ids=["None", "dict", "tuple"],
)
def test_an_output_that_is_not_a_tensor_is_reported_with_the_code_that_selects_one(output, hint):
    assert hint in error_of(make(Returns(output), (X, CLASSES), F.cross_entropy))


def test_classes_in_a_loss_of_numbers_are_reported_with_the_loss_for_classes():
    learn = make(nn.Linear(3, 4), (X, CLASSES), F.mse_loss)
    with pytest.warns(UserWarning, match="compares floats"), pytest.warns(UserWarning, match="target size"):
        assert "If the targets are classes, use cross_entropy as loss." in error_of(learn)
