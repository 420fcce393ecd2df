"""Mean losses and metrics are those of the joined data, however it is split into batches."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from ground.joined_losses import (
    CASES,
    PARTLY,
    N,
    X,
    batches_of,
    joined,
    learner_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from callbacks import GradientAccumulation, StopOnNaN
from callbacks.results.reductions import reduction_of
from learner import Data, Learner

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:lr is 0"),
    pytest.mark.filterwarnings("ignore:size_average and reduce"),
]


PARTS = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(lambda parts: split_by(parts, N))


def split_by(sizes, n):
    """Sizes that together are n."""
    found = []
    while n:
        found.append(min(sizes[len(found) % len(sizes)], n))
        n -= found[-1]
    return found


@settings(max_examples=3, deadline=None)
@given(sizes=PARTS)
@pytest.mark.parametrize("name", CASES)
def test_the_mean_loss_is_that_of_the_joined_data(name, sizes):
    learn = learner_of(name, sizes)
    right = joined(name, learn)
    assert learn.validate()["valid_loss"] == pytest.approx(right, rel=1e-9)
    learn.fit(1)
    assert learn.results["train_loss"] == pytest.approx(right, rel=1e-9)
    assert learn.results["valid_loss"] == pytest.approx(right, rel=1e-9)


@settings(max_examples=2, deadline=None)
@given(sizes=PARTS)
@pytest.mark.parametrize("name", CASES)
def test_accumulated_gradients_are_those_of_the_joined_data(name, sizes):
    weights = []
    for each, callbacks in ((sizes, [GradientAccumulation(N)]), ([N], [])):
        learn = learner_of(name, each, *callbacks, lr=0.01)
        learn.data.valid = None
        learn.fit(2)
        weights.append(torch.cat([each.detach().flatten() for each in learn.model.parameters()]))
    assert weights[0].isfinite().all()
    assert torch.allclose(*weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        *("mse", "mse sum", "cross entropy, all", "cross entropy sum", "kl, batch mean", "scripted"),
        *("bound method", "gaussian", "cosine", "triplet sum"),
    ],
)
@pytest.mark.parametrize("sizes", [[12], [5, 4, 3], [1] * 12])
def test_a_loss_among_the_metrics_is_averaged_in_its_own_way(name, sizes):
    make, targets, loss_func = CASES[name]
    batches = batches_of(targets, sizes)
    metric = partial(loss_func)
    metric.name = "measured"
    learn = Learner(make().double(), Data(batches), lambda preds, *targets: preds.mean(), metrics=[metric])
    assert learn.validate(batches)["valid_measured"] == pytest.approx(joined(name, learn), rel=1e-9)


@pytest.mark.parametrize("loss", [nn.GaussianNLLLoss(), partial(F.gaussian_nll_loss, full=False)])
def test_a_module_or_partial_of_several_targets_measures_under_its_own_name(loss):
    make, targets, _ = CASES["gaussian"]
    learn = Learner(make().double(), Data(batches_of(targets, [5, 7])), CASES["gaussian"][2], metrics=[loss])
    assert learn.validate(learn.data.train)["valid_gaussian_nll_loss"] == pytest.approx(
        joined("gaussian", learn)
    )


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="torch has it from 2.13 on")
def test_a_linear_cross_entropy_leaves_out_ignored_targets():
    loss = nn.LinearCrossEntropyLoss(4, 4).double()
    assert reduction_of(loss).weigh(X, PARTLY) == (PARTLY != -100).sum()


def test_a_batch_without_any_target_has_no_weight():
    learn = learner_of("cross entropy, ignored", [3, 9])
    assert math.isfinite(learn.validate()["valid_loss"])
    assert learn.validate()["valid_loss"] == pytest.approx(joined("cross entropy, ignored", learn))
    assert math.isnan(learn.validate([(X[:3], PARTLY[:3])])["valid_loss"])


def test_a_nan_of_the_model_is_not_hidden_where_targets_are_ignored():
    learn = learner_of("cross entropy, ignored", [3, 9])
    with torch.no_grad():
        learn.model.weight.fill_(math.nan)
    assert math.isnan(learn.validate()["valid_loss"])


def test_a_batch_without_any_target_is_named_as_what_ends_the_fit():
    learn = learner_of("cross entropy, ignored", [3, 9], StopOnNaN())
    with pytest.raises(FloatingPointError, match="no target of the batch counts"):
        learn.fit(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when its compiler is imported
@pytest.mark.parametrize("loss_func", [F.cross_entropy, nn.CrossEntropyLoss()])
def test_a_compiled_loss_is_known_as_well(loss_func):
    counted = reduction_of(torch.compile(loss_func)).weigh(X, PARTLY)
    assert counted == (PARTLY != -100).sum()
