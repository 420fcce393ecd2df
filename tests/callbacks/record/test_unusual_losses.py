"""Losses in validation that are not one number per batch, or NaN in some batches."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import LearnerWarning, Metrics
from learner import Data, Learner

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
SGD = partial(torch.optim.SGD, lr=0.1)


def learner_of(loss, targets=(Y,), *callbacks):
    batches = list(zip(X.split(2), zip(*(each.split(2) for each in targets), strict=True), strict=True))
    return Learner(nn.Linear(3, 1), Data(None if loss is None else batches, batches), loss, SGD, callbacks)


class PerItemInValidation(nn.Module):
    def forward(self, preds, targets):
        losses = (preds - targets).square()
        return losses.mean() if self.training else losses


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(reduction="none"), partial(F.l1_loss, reduction="none"), PerItemInValidation()]
)
def test_a_loss_per_item_in_validation_is_an_error_with_its_shape(loss):
    words = r"shape \(2, 1\) in a batch of the valid pass, but one number is needed: .*with_loss=True"
    with pytest.raises(ValueError, match=words):
        learner_of(loss).validate()


@pytest.mark.parametrize("several", [lambda loss: (loss, loss), lambda loss: {"loss": loss}])
def test_several_losses_in_validation_are_an_error_with_their_type(several):
    with pytest.raises(TypeError, match=r"the loss is a (tuple|dict) in a batch of the valid pass"):
        learner_of(lambda preds, targets: several(F.mse_loss(preds, targets))).validate()


@pytest.mark.parametrize(
    "convert",
    [torch.Tensor.item, lambda loss: loss.reshape(1, 1), lambda loss: loss.numpy(), torch.Tensor.double],
)
def test_one_number_in_validation_may_have_any_form(convert):
    measured = learner_of(lambda preds, targets: convert(F.mse_loss(preds, targets))).validate()
    assert math.isfinite(measured["valid_loss"])


MASKS = {"last": torch.arange(7) < 6, "none": torch.ones(7) > 0, "all": torch.ones(7) < 0}


def of_mask(calls, preds, targets, mask):
    calls.append(len(preds))  # so that the loss is not tried
    return ((preds - targets).square() * mask[:, None]).sum() / mask.sum()


@pytest.mark.parametrize(("name", "n_warnings"), [("last", 1), ("none", 0), ("all", 0)])
def test_a_mean_that_is_nan_because_of_some_batches_raises_one_warning(name, n_warnings):
    learn = learner_of(partial(of_mask, []), (Y, MASKS[name]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measured = learn.validate()
        learn.validate()
    assert [type(each.message) for each in caught] == n_warnings * [LearnerWarning]
    assert math.isnan(measured["valid_loss"]) == (name != "none")
    if n_warnings:
        words = "valid_loss is NaN because of 1 of 4 batches, first batch 3: look for NaN in its inputs"
        assert words in str(caught[0].message)


def test_the_weight_that_the_warning_asks_for_makes_the_mean_right():
    metrics = Metrics(weight=lambda learn: learn.targets[1].sum())
    learn = learner_of(partial(of_mask, []), (Y, MASKS["last"]), metrics)
    with torch.no_grad():
        right = F.mse_loss(learn.model(X[:6]), Y[:6]).item()
    assert learn.validate()["valid_loss"] == pytest.approx(right, rel=1e-5)
