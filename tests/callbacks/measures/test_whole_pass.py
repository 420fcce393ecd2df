"""Functions that are not means over items: called once on a whole pass, or warned of."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import sklearn.metrics
import torch
import torchmetrics.functional
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, fbeta_score, r2_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from callbacks import Checkpoint, EarlyStopping, LearnerWarning, Metrics, on, whole_pass
from learner import Data, Learner

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(20, 3, generator=DRAW)
CLASSES = (X[:, 0] + torch.randn(20, generator=DRAW) > 0.5).long()


def learner_of(*metrics, sizes=6, targets=CLASSES, on="valid", callbacks=()):
    torch.manual_seed(0)
    batches = list(zip(X.split(sizes), targets.split(sizes), strict=True))
    loss_func = F.cross_entropy if targets.ndim == 1 else F.mse_loss
    data = Data(batches, list(batches))
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(nn.Linear(3, 2), data, loss_func, sgd, [Metrics(*metrics, on=on), *callbacks])


def measured(metric, **options):
    """The metric's value of a pass."""
    found = learner_of(metric, **options).validate()
    return next(value for name, value in found.items() if name != "valid_loss")


def preds_of(learn):
    with torch.no_grad():
        return learn.model(X)


# whole_pass


def f1(preds, targets):
    return f1_score(targets.numpy(), preds.argmax(1).numpy())


def median(preds, targets):
    return (preds[:, 0] - targets).abs().median()


def root(preds, targets):
    return F.mse_loss(preds[:, 0], targets.float()).sqrt()


def area(preds, targets):
    return roc_auc_score(targets, preds.diff(dim=1))


@settings(max_examples=5, deadline=None)
@given(sizes=st.integers(1, 20))
@pytest.mark.parametrize("function", [f1, median, root, area])
def test_a_function_is_called_once_on_the_whole_pass(function, sizes):
    learn = learner_of(whole_pass(function), sizes=sizes)
    found = learn.validate()[f"valid_{function.__name__}"]
    assert found == pytest.approx(float(function(preds_of(learn), CLASSES)))
    assert isinstance(found, float)


@pytest.mark.parametrize(
    ("function", "options"),
    [(f1_score, {}), (fbeta_score, {"beta": 2}), (sklearn.metrics.matthews_corrcoef, {})],
)
def test_scikit_learns_own_are_called_as_they_are(function, options):
    metric = whole_pass(partial(function, **options) if options else function)
    learn = learner_of(metric)
    right = function(CLASSES, preds_of(learn).argmax(1), **options)
    assert learn.validate()[f"valid_{function.__name__}"] == pytest.approx(right)


def test_targets_come_first_where_that_is_asked_for():
    targets = torch.randn(20, 2, generator=DRAW)

    def score(first, second):
        return r2_score(first, second)

    learn = learner_of(whole_pass(score, targets_first=True), targets=targets)
    assert learn.validate()["valid_score"] == pytest.approx(r2_score(targets, preds_of(learn)))


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        (whole_pass(f1_score), True),
        (whole_pass(sklearn.metrics.max_error), False),
        (whole_pass(f1), None),
        (whole_pass(f1, higher_is_better=True), True),
    ],
)
def test_the_name_or_the_option_decides_which_way_is_better(metric, better):
    assert metric.higher_is_better is better


def test_early_stopping_can_monitor_it():
    stopping = EarlyStopping("valid_f1_score", patience=1)
    learn = learner_of(whole_pass(f1_score), callbacks=[stopping])
    learn.fit(3)
    assert stopping.best == max(row["valid_f1_score"] for row in learn.history)


def test_a_name_can_be_given():
    assert measured(whole_pass(lambda preds, targets: preds.sum(), name="own")) is not None
    with pytest.raises(TypeError, match="has no name"):
        whole_pass(lambda preds, targets: preds.sum())


@pytest.mark.parametrize("wrong", [3, torchmetrics.MeanSquaredError(), torchmetrics.MeanSquaredError])
def test_what_is_not_a_function_is_refused(wrong):
    with pytest.raises(TypeError, match="pass a function of"):
        whole_pass(wrong)


def test_several_numbers_become_lists_and_names():
    counts = measured(whole_pass(lambda p, t: torch.bincount(t), name="counts"))
    assert counts == torch.bincount(CLASSES).tolist()
    learn = learner_of(whole_pass(lambda p, t: {"low": t.min(), "high": t.max()}, name="both"))
    assert learn.validate() | {"valid_loss": 0} == {"valid_loss": 0, "valid_low": 0, "valid_high": 1}


def test_an_error_shows_what_the_function_received():
    with pytest.raises(ValueError, match="different number of output") as error:
        measured(whole_pass(r2_score))
    assert "whole_pass(r2_score), with float32 of shape (20, 2)" in "\n".join(error.value.__notes__)


def test_batches_that_cannot_be_joined_are_reported():
    class Ragged(nn.Module):
        def forward(self, x):
            return x.new_ones(len(x), len(x))

    batches = [(torch.ones(n, 3), torch.ones(n)) for n in (2, 3)]
    learn = Learner(Ragged(), Data(batches), lambda p, t: p.mean(), metrics=[whole_pass(median)])
    with pytest.raises(ValueError, match=r"cannot be joined: .*\(2,\), \(3,\)"):
        learn.validate(batches)


def test_lists_tuples_and_mappings_are_joined_by_part():
    class Both(nn.Module):
        def forward(self, x):
            return {"sum": x.sum(1), "words": [str(len(x))] * len(x)}

    def count(preds, targets):
        assert preds["words"] == ["6"] * 18 + ["2"] * 2
        return len(preds["sum"]) + len(targets[0]) + len(targets[1])

    batches = list(zip(X.split(6), CLASSES.split(6), CLASSES.split(6), strict=True))
    learn = Learner(Both(), Data(batches), lambda p, *t: p["sum"].mean(), metrics=[whole_pass(count)])
    assert learn.validate(batches)["valid_count"] == 60


def test_memory_that_is_used_again_is_copied():
    x = torch.zeros(4, 3)

    def again():
        for n in range(3):
            x.fill_(n)
            yield x, torch.full((4,), n)

    metric = whole_pass(lambda preds, targets: preds[:, 0].sum(), name="total")
    learn = Learner(nn.Identity(), Data(again), lambda p, t: p.mean(), metrics=[metric])
    assert learn.validate(again)["valid_total"] == 12


def test_a_fit_resumes_in_the_middle_of_a_pass(tmp_path):
    @on("after_batch")
    def interrupt(learn):
        if learn.training and learn.batch_idx == 1 and not learn.resumed:
            learn.interrupted = "the test"

    def make():
        saves = Checkpoint(every="1 epoch", folder=tmp_path)
        return learner_of(whole_pass(f1), on="both", callbacks=[saves])

    make().fit(1, callbacks=[interrupt])
    learn, other = make(), learner_of(whole_pass(f1), on="both")
    learn.fit(1, resume="must")
    other.fit(1)
    assert learn.results["train_f1"] == other.results["train_f1"]
    assert learn.results["valid_f1"] == other.results["valid_f1"]


# The warning


def by_helper(preds, targets):
    return f1(preds, targets)


def imported(preds, targets):
    from sklearn.metrics import balanced_accuracy_score as balanced

    return balanced(targets, preds.argmax(1))


def by_attribute(preds, targets):
    return sklearn.metrics.precision_score(targets, preds.argmax(1), zero_division=0)


def power(preds, targets):
    return F.mse_loss(preds[:, 0], targets.float()) ** 0.5


def torchmetrics_f1(preds, targets):
    return torchmetrics.functional.f1_score(preds, targets, "multiclass", num_classes=2, average="macro")


class Root(nn.Module):
    name = "root"

    def forward(self, preds, targets):
        return root(preds, targets)


def hits(preds, targets):
    return (preds.argmax(1) == targets).sum()


def highest(preds, targets):
    return preds.max()


def found_of_class(preds, targets):
    return preds.argmax(1)[targets == 1].float().mean()


class Linked:
    __name__ = "linked"

    def __call__(self, preds, targets):
        return self.link(preds[:, 0], targets.float())

    def link(self, one, other):
        return torch.cov(torch.stack([one, other]))[0, 1]


OF_A_PASS = [
    f1,
    by_helper,
    imported,
    by_attribute,
    median,
    root,
    power,
    area,
    torchmetrics_f1,
    Root(),
    partial(f1),
]


@pytest.mark.parametrize("metric", [*OF_A_PASS, hits, highest, found_of_class, Linked()])
def test_a_function_that_is_not_a_mean_raises_one_warning_with_the_fix(metric):
    learn = learner_of(metric)
    with pytest.warns(LearnerWarning, match=r"is not a mean over items.*whole_pass\(") as seen:
        learn.validate()
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.validate()


def micro(preds, targets):
    return f1_score(targets, preds.argmax(1), average="micro")


def accuracy_of(preds, targets):
    return accuracy_score(targets, preds.argmax(1))


def distance(preds, targets):
    return (preds - F.one_hot(targets, 2)).square().sum(1).sqrt().mean()


def above_half(preds, targets):
    return ((preds.softmax(1)[:, 1] > 0.5) == targets).float().mean()


def noise(preds, targets):
    return torch.rand(()).sqrt()


def one_batch_only(preds, targets):
    assert len(preds) <= 6
    return preds.square().sum().sqrt() * 0


def of_half(preds, targets):
    return (preds[:, 0] - targets).to(torch.bfloat16).mean()


SEEN: list[int] = []


def keeping(preds, targets):
    SEEN.append(len(preds))
    return len(SEEN)


class Changing(nn.Module):
    name = "changing"
    n_calls = 0

    def forward(self, preds, targets):
        self.n_calls += 1
        return self.n_calls


OF_ITEMS = [micro, accuracy_of, distance, above_half, noise, one_batch_only, of_half, keeping, Changing()]


@pytest.mark.parametrize("metric", OF_ITEMS)
def test_a_mean_over_items_raises_no_warning_whatever_it_calls(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learner_of(metric).validate()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        scores = self.layer(x)
        self.spread = scores.detach().std()
        return {"scores": scores, "scale": torch.tensor(2.0)}


def test_a_value_that_depends_on_more_than_rows_of_the_arguments_raises_no_warning():
    model = Scaled()

    def spread(preds, targets):
        return model.spread

    def scaled(preds, targets):
        return (preds["scores"][:2] * preds["scale"]).sum()

    batches = list(zip(X.split(6), CLASSES.split(6), strict=True))
    for metric in (spread, scaled):
        learn = Learner(model, Data(batches), lambda p, t: p["scores"].mean(), metrics=[metric])
        with warnings.catch_warnings():
            warnings.simplefilter("error", LearnerWarning)
            learn.validate(batches)


def test_one_batch_is_correct_and_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        assert not math.isnan(measured(f1, sizes=20))


def test_to_try_a_function_draws_nothing():
    def drawing(preds, targets):
        return torch.rand(()).sqrt()

    learn = learner_of(drawing)
    torch.manual_seed(1)
    learn.fit(1)
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))


def test_a_function_that_takes_targets_first_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"pass whole_pass\(f1_score\)"):
        Metrics(f1_score)
