"""Mean losses and metrics are those of the joined data, however it is split into batches."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, GradientAccumulation, LogRMSE, Metrics, Recorder, StopOnNaN, ZeroGrad, on
from callbacks.results.reductions import reduction_of
from learner import Data, Learner

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:lr is 0"),
    pytest.mark.filterwarnings("ignore:size_average and reduce"),
]
N = 12
DRAW = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW).double()


def numbers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=DRAW)


def partly(classes: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    """Classes half of them ignored, with all those of the first items."""
    kept = classes.clone()
    kept[torch.rand(kept.shape, generator=DRAW) < 0.5] = ignored
    kept[:3] = ignored
    return kept


X = drawn(N, 4)
CLASSES, PIXELS = numbers(4, N), numbers(4, N, 5)
YES = numbers(2, N, 4).double()
PARTLY, PIXELS_PARTLY, FROM_ZERO = partly(CLASSES), partly(PIXELS), partly(CLASSES, 0)
SHARES = drawn(N, 4).softmax(1)
SIGNS = YES[:, 0] * 2 - 1
W = torch.tensor([1.0, 9.0, 2.0, 0.5]).double()


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather compile
    SCRIPTED = torch.jit.script(nn.MSELoss(reduction="sum"))


class Pixels(nn.Module):
    """Scores of shape (items, classes, pixels)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 20)

    def forward(self, x):
        return self.linear(x).unflatten(1, (4, 5))


def linear():
    return nn.Linear(4, 4)


def then(layer):
    return lambda: nn.Sequential(nn.Linear(4, 4), layer)


LOG_SHARES = then(nn.LogSoftmax(1))
DEFAULTS = (ZeroGrad, Metrics, Recorder)
# a model, its targets, and the loss
CASES = {
    "mse": (linear, X, F.mse_loss),
    "mse sum": (linear, X, nn.MSELoss(reduction="sum")),
    "mse sum in old words": (linear, X, partial(F.mse_loss, size_average=False)),
    "l1": (linear, X, nn.L1Loss()),
    "smooth l1": (linear, X, F.smooth_l1_loss),
    "huber": (linear, X, partial(F.huber_loss, delta=0.3)),
    "cross entropy": (linear, CLASSES, F.cross_entropy),
    "cross entropy, ignored": (linear, PARTLY, nn.CrossEntropyLoss()),
    "cross entropy, another ignored": (linear, FROM_ZERO, partial(F.cross_entropy, ignore_index=0)),
    "cross entropy, weights": (linear, CLASSES, nn.CrossEntropyLoss(weight=W)),
    "cross entropy, all": (linear, PARTLY, partial(F.cross_entropy, weight=W, label_smoothing=0.1)),
    "cross entropy, smooth": (linear, PARTLY, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "cross entropy, shares": (linear, SHARES, nn.CrossEntropyLoss(weight=W)),
    "cross entropy, pixels": (Pixels, PIXELS_PARTLY, nn.CrossEntropyLoss(weight=W)),
    "cross entropy sum": (linear, PARTLY, nn.CrossEntropyLoss(reduction="sum", weight=W)),
    "nll": (LOG_SHARES, PARTLY, nn.NLLLoss(weight=W)),
    "bce": (then(nn.Sigmoid()), YES, nn.BCELoss()),
    "bce, weights": (linear, YES, nn.BCEWithLogitsLoss(weight=W, pos_weight=W)),
    "kl": (LOG_SHARES, SHARES, nn.KLDivLoss()),
    "kl, batch mean": (LOG_SHARES, SHARES, partial(F.kl_div, reduction="batchmean")),
    "poisson": (linear, YES, nn.PoissonNLLLoss()),
    "soft margin": (linear, YES * 2 - 1, nn.SoftMarginLoss()),
    "multi margin": (linear, CLASSES, nn.MultiMarginLoss(weight=W)),
    "multi label": (linear, YES, nn.MultiLabelSoftMarginLoss(weight=W)),
    "multi label margin": (linear, numbers(4, N, 4), nn.MultiLabelMarginLoss()),
    "hinge": (linear, YES * 2 - 1, nn.HingeEmbeddingLoss()),
    "gaussian": (linear, (X, X.square() + 0.1), nn.GaussianNLLLoss()),
    "margin ranking": (linear, (X, YES * 2 - 1), nn.MarginRankingLoss()),
    "cosine": (linear, (X, SIGNS), nn.CosineEmbeddingLoss()),
    "triplet": (linear, (X, X.flip(0)), nn.TripletMarginLoss()),
    "triplet sum": (linear, (X, X.flip(0)), partial(F.triplet_margin_loss, reduction="sum")),
    "bound method": (linear, PARTLY, nn.CrossEntropyLoss(weight=W).forward),
    "scripted": (linear, X, SCRIPTED),
    "own": (linear, X, lambda preds, targets: (preds - targets).square().mean()),
}
PARTS = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(lambda parts: split_by(parts, N))


def split_by(sizes, n):
    """Sizes that together are n."""
    found = []
    while n:
        found.append(min(sizes[len(found) % len(sizes)], n))
        n -= found[-1]
    return found


def batches_of(targets, sizes):
    columns = [X, *(targets if isinstance(targets, tuple) else (targets,))]
    return list(zip(*(each.split(sizes) for each in columns), strict=True))


def learner_of(name, sizes, *callbacks, lr=0.0):
    make, targets, loss_func = CASES[name]
    torch.manual_seed(0)
    batches = batches_of(targets, sizes)
    data = Data(batches, list(batches))
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9)
    return Learner(make().double(), data, loss_func, optimizer, callbacks, defaults=DEFAULTS)


def joined(name, learn):
    """The loss of the joined data."""
    _, targets, loss_func = CASES[name]
    with torch.no_grad():
        preds = learn.model.eval()(X)
        return loss_func(preds, *(targets if isinstance(targets, tuple) else (targets,))).item()


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
def test_gradients_that_add_up_are_those_of_the_joined_data(name, sizes):
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
def test_a_linear_cross_entropy_leaves_out_what_it_ignores():
    loss = nn.LinearCrossEntropyLoss(4, 4).double()
    assert reduction_of(loss).weigh(X, PARTLY) == (PARTLY != -100).sum()


def test_a_batch_without_any_target_counts_for_nothing():
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


def tokens_of(preds, targets):
    """A user's loss that is a mean over tokens."""
    kept = targets != 0
    return F.cross_entropy(preds, targets, reduction="none")[kept].mean()


def test_a_function_of_the_learner_decides_how_much_a_batch_counts():
    weight = Metrics(weight=lambda learn: (learn.targets != 0).sum())
    _, targets, _ = CASES["cross entropy, another ignored"]
    batches = batches_of(targets, [5, 4, 3])
    learn = Learner(nn.Linear(4, 4).double(), Data(batches), tokens_of, callbacks=[weight])
    right = tokens_of(learn.model(X), targets).item()
    assert learn.validate(batches)["valid_loss"] == pytest.approx(right)


def test_a_weight_that_is_not_a_function_is_refused():
    with pytest.raises(ValueError, match=r"Metrics\(weight=3\): pass a function of the learner"):
        Metrics(weight=3)


class OwnSum(nn.Module):
    reduction = "sum"

    def forward(self, preds, targets):
        return (preds - targets).abs().pow(1.5).sum()


def own_sum(preds, targets, reduction="mean"):
    losses = (preds - targets).abs().pow(1.5)
    return losses.sum() if reduction == "sum" else losses.mean()


@pytest.mark.parametrize("loss_func", [OwnSum(), partial(own_sum, reduction="sum")])
def test_a_users_loss_that_names_a_sum_is_added_up(loss_func):
    batches = batches_of(X, [5, 4, 3])
    model = nn.Linear(4, 4).double()
    found = Learner(model, Data(batches), loss_func).validate(batches)["valid_loss"]
    with torch.no_grad():
        assert found == pytest.approx(loss_func(model(X), X).item())


class OwnLoss(nn.MSELoss):
    def forward(self, preds, targets):
        return (preds - targets).square().sum(1).mean()


@pytest.mark.parametrize("way", ["subclass of a loss", "callback", "subclass of the learner"])
def test_a_loss_that_is_computed_in_another_way_counts_by_items(way):
    class Twice(Callback):
        def compute_loss(self, learn):
            learn.loss_grad = 2 * learn.loss_func(learn.preds, learn.targets) / len(learn.targets)

    class TwiceLearner(Learner):
        def compute_loss(self):
            Twice().compute_loss(self)

    loss_func = OwnLoss() if way == "subclass of a loss" else nn.MSELoss(reduction="sum")
    kind = TwiceLearner if way == "subclass of the learner" else Learner
    callbacks = [Twice()] if way == "callback" else []
    model = nn.Linear(4, 4).double()
    batches = batches_of(X, [5, 7])
    found = kind(model, Data(batches), loss_func, callbacks=callbacks).validate(batches)["valid_loss"]
    factor = 1 if way == "subclass of a loss" else 2
    with torch.no_grad():
        assert found == pytest.approx(factor * (model(X) - X).square().sum(1).mean().item())


def test_log_rmse_prints_the_root_of_the_same_mean(capsys):
    learn = learner_of("mse", [5, 4, 3], LogRMSE("1 epoch"))
    learn.fit(1)
    shown = float(capsys.readouterr().out.split("RMSE: ")[1].split()[0])
    assert shown == pytest.approx(math.sqrt(learn.results["train_loss"]))


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor


class Writer(nn.Module):
    """A language model that computes its own loss over the labels, or over those that follow."""

    def __init__(self, shift):
        super().__init__()
        self.table, self.shift = nn.Embedding(7, 7), shift

    def forward(self, input_ids, labels):
        logits = self.table(input_ids)
        scores = logits[:, : logits.shape[1] - self.shift]
        return Output(logits, F.cross_entropy(scores.flatten(0, 1), labels[:, self.shift :].flatten()))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("sizes", [[12], [5, 4, 3], [1] * 12])
def test_the_own_loss_of_a_language_model_counts_by_the_labels_it_compares_with(shift, sizes):
    ids = numbers(7, N, 5)
    labels = partly(ids)
    model = Writer(shift)
    batches = [
        {"input_ids": one, "labels": other}
        for one, other in zip(ids.split(sizes), labels.split(sizes), strict=True)
    ]
    found = Learner(model, Data(batches)).validate(batches)["valid_loss"]
    assert found == pytest.approx(model(ids, labels).loss.item(), rel=1e-5)


def test_a_mean_resumes_in_the_middle_of_a_pass():
    states = []

    @on("after_batch")
    def keep(learn):
        states.append(learn.callbacks.metrics.state_dict())

    learn = learner_of("cross entropy, all", [5, 4, 3], keep)
    right = learn.validate()["valid_loss"]
    metrics = Metrics()
    metrics.load_state_dict(states[1])
    measured = metrics.under_way["valid"]["loss"]
    assert len(measured["values"]) == len(measured["weights"]) == 2
    assert right == pytest.approx(joined("cross entropy, all", learn))
