"""Targets of another type or shape than the loss needs are reported with the line to write."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from tiny import notes
from torch import nn
from torch.nn import functional as F

from callbacks import LearnerWarning, ZeroGrad
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.01)


def learner_of(data, model=None, loss_func=F.mse_loss, **options) -> Learner:
    options.setdefault("defaults", (ZeroGrad,))
    return Learner(model or nn.Linear(1, 1), data, loss_func, SGD, **options)


@pytest.mark.parametrize(
    "loss_func",
    [
        F.binary_cross_entropy_with_logits,
        nn.BCEWithLogitsLoss(),
        nn.HuberLoss(),
        partial(F.huber_loss, delta=0.5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_targets_of_a_loss_of_floats_are_refused_with_the_cast(loss_func, dtype):
    batch = (torch.randn(4, 1), torch.ones(4, 1).to(dtype))
    with pytest.raises(
        TypeError, match=r"the targets are (int64|bool), but \w+ compares floats: write targets.float"
    ):
        learner_of(Data([batch]), loss_func=loss_func).fit(1)


@pytest.mark.parametrize("loss_func", [F.l1_loss, nn.L1Loss()])  # older torch refuses them for mse_loss
def test_integer_targets_that_torch_casts_raise_a_warning(loss_func):
    learn = learner_of(Data([(torch.randn(4, 1), torch.ones(4, 1).long())]), loss_func=loss_func)
    with pytest.warns(LearnerWarning, match="the targets are int64.*write targets.float") as caught:
        learn.fit(2)
    assert len(caught) == 1


def test_counts_are_correct_targets_of_a_poisson_loss():
    learner_of(Data([(torch.randn(4, 1), torch.ones(4, 1).long())]), loss_func=nn.PoissonNLLLoss()).fit(1)


BINARY, SIGNS = torch.tensor([[0.0], [1.0], [1.0], [0.0]]), torch.tensor([[-1.0], [1.0], [1.0], [-1.0]])


@pytest.mark.parametrize(
    ("loss_func", "targets", "message"),
    [
        (nn.BCEWithLogitsLoss(), SIGNS, r"from -1 to 1, but .* takes 0 and 1.*write \(targets \+ 1\) / 2"),
        (nn.BCEWithLogitsLoss(), 255 * BINARY, "from 0 to 255, but"),
        (F.soft_margin_loss, BINARY, "from 0 to 1, but .* takes -1 and 1.*write targets \\* 2 - 1"),
        (nn.SoftMarginLoss(), BINARY.long(), "from 0 to 1, but"),
    ],
    ids=["signs", "bytes", "0 and 1", "whole numbers"],
)
def test_targets_that_are_outside_the_range_of_a_binary_loss_raise_one_warning(loss_func, targets, message):
    learn = learner_of(Data([(torch.randn(4, 1), targets)]), loss_func=loss_func)
    with pytest.warns(LearnerWarning, match=message) as caught:
        learn.fit(2)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("loss_func", "targets"),
    [
        (nn.BCEWithLogitsLoss(), 0.9 * BINARY + 0.05),
        (nn.SoftMarginLoss(), SIGNS),
        (nn.SoftMarginLoss(), SIGNS.long()),
        (F.soft_margin_loss, torch.tensor([[-0.5], [0.0], [1.0], [0.2]])),
    ],
    ids=["shares", "signs", "whole signs", "mixed"],
)
def test_targets_in_the_range_of_a_binary_loss_raise_no_warning(loss_func, targets):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learner_of(Data([(torch.randn(4, 1), targets)]), loss_func=loss_func).fit(1)


@pytest.mark.parametrize("loss_func", [F.cross_entropy, nn.CrossEntropyLoss(), F.nll_loss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bool])
def test_targets_that_are_not_classes_are_refused_with_the_cast(loss_func, dtype):
    learn = learner_of(
        Data([(torch.randn(4, 2), torch.ones(4).to(dtype))]),
        model=nn.Sequential(nn.Linear(2, 3), nn.LogSoftmax(1)),
        loss_func=loss_func,
    )
    with pytest.raises(TypeError, match=r"the targets are \w+ of shape \(4,\).*write targets.long\(\)"):
        learn.fit(1)


def test_class_probabilities_are_allowed():
    learn = learner_of(
        Data([(torch.randn(4, 2), torch.full((4, 3), 1 / 3))]),
        model=nn.Linear(2, 3),
        loss_func=F.cross_entropy,
    )
    learn.fit(1)


def test_classes_in_a_column_are_refused_with_the_line_to_write():
    learn = learner_of(
        Data([(torch.randn(4, 2), torch.ones(4, 1).long())]), model=nn.Linear(2, 3), loss_func=F.cross_entropy
    )
    with pytest.raises(ValueError, match=r"shape \(4, 1\).*shape \(4,\): write targets.squeeze\(1\)"):
        learn.fit(1)


def test_cross_entropy_over_a_single_class_is_refused():
    learn = learner_of(Data([(torch.randn(4, 1), torch.ones(4, 1))]), loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"one class and cross_entropy is always 0.*binary_cross_entropy"):
        learn.fit(1)


def test_a_class_without_an_output_of_the_model_is_reported():
    learn = learner_of(
        Data([(torch.randn(2, 2), torch.tensor([0, 3]))]), model=nn.Linear(2, 3), loss_func=F.cross_entropy
    )
    with pytest.raises(IndexError) as caught:
        learn.fit(1)
    assert "The targets range from 0 to 3, but preds have 3 classes" in notes(caught.value)


@pytest.mark.parametrize(
    "loss_func", [F.cross_entropy, lambda preds, targets: F.nll_loss(preds.log_softmax(1), targets)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.float32])
def test_targets_that_a_loss_of_classes_refuses_in_validation_are_reported_with_the_cast(loss_func, dtype):
    batches = [(torch.randn(4, 2), torch.ones(4).to(dtype))]
    learn = learner_of(Data(batches, batches), model=nn.Linear(2, 3), loss_func=loss_func)
    with pytest.raises(RuntimeError) as caught:
        learn.validate()
    assert "write targets.long()" in notes(caught.value)


def test_targets_of_another_dtype_in_the_users_loss_are_reported():
    def loss_func(preds, targets):
        return F.binary_cross_entropy(preds.sigmoid(), targets)

    with pytest.raises(RuntimeError) as caught:
        learner_of(Data([(torch.randn(4, 1), torch.ones(4, 1).double())]), loss_func=loss_func).fit(1)
    assert "Targets are float64, preds float32: write targets.float()" in notes(caught.value)


@pytest.mark.parametrize("loss_func", [F.cross_entropy, nn.CrossEntropyLoss(ignore_index=0)])
def test_classes_in_the_last_dimension_are_reported_with_the_line_to_write(loss_func):
    tokens = torch.randint(5, (4, 7))
    with pytest.raises(ValueError, match=r"cross_entropy\(preds.flatten\(0, -2\), targets.flatten\(\)\)"):
        learner_of(Data([(tokens, tokens)]), nn.Embedding(5, 5), loss_func).fit(1)


def test_classes_in_the_last_dimension_are_reported_in_a_later_batch_too():
    """In the first batch there are as many positions as classes, so the loss accepts it."""
    batches = [(tokens, tokens) for tokens in (torch.randint(5, (4, 5)), torch.randint(5, (4, 7)))]
    with pytest.raises(RuntimeError) as caught:
        learner_of(Data(batches), nn.Embedding(5, 5), F.cross_entropy).fit(1)
    assert "the classes are the last dimension" in notes(caught.value)
