"""`whole_pass`: functions that are called once on a whole pass."""

from __future__ import annotations

from functools import partial

import pytest
import sklearn.metrics
import torch
import torchmetrics.functional
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, fbeta_score, r2_score
from torch import nn
from whole import CLASSES, DRAW, X, area, f1, learner_of, measured, median, preds_of, root

from callbacks import Checkpoint, EarlyStopping, on, whole_pass
from learner import Data, Learner


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
def test_functions_of_scikit_learn_are_called_unchanged(function, options):
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
