"""Cross-validation: folds, seeds, and results."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import learner
from callbacks import Checkpoint, EarlyStopping, LearnerWarning, Progress, accuracy
from learner import Data, Learner
from learner.inference.folds import make_folds

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def make(data, **settings):
    learn = Learner(
        nn.Linear(3, 2),
        data,
        F.cross_entropy,
        partial(torch.optim.SGD, lr=0.1),
        metrics=[accuracy],
        **settings,
    )
    learn.remove_callbacks(Progress)
    return learn


def test_each_fold_trains_like_a_fit_by_hand_on_the_other_items():
    found = learner.cross_validate(make, (X, Y), 3, n_epochs=2, batch_size=8, seed=1)
    for row, history, (train, valid) in zip(
        found.rows, found.histories, make_folds(30, 3, None, None, 1), strict=True
    ):
        torch.manual_seed(1)
        data = Data.from_tensors(X[train], Y[train], 8, valid=(X[valid], Y[valid]), seed=1)
        by_hand = make(data).fit(2)
        assert history["train_loss"] == by_hand["train_loss"]
        assert row["valid_loss"] == by_hand[-1]["valid_loss"]
        assert (row["n_train"], row["n_valid"], row["n_epochs"]) == (20, 10, 2)


def test_random_states_are_as_before_and_the_seed_decides_everything():
    before = torch.get_rng_state()
    first, second, third = (learner.cross_validate(make, (X, Y), 2, n_epochs=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.rows == second.rows != third.rows


def test_mean_and_spread_are_those_of_the_rows():
    found = learner.cross_validate(make, (X, Y), 4, n_epochs=1)
    losses = [row["valid_loss"] for row in found.rows]
    assert found.mean["valid_loss"] == pytest.approx(np.mean(losses))
    assert found.std["valid_loss"] == pytest.approx(np.std(losses, ddof=1))
    lines = str(found).splitlines()
    assert lines[0].split() == ["fold", "n_valid", "valid_loss", "valid_accuracy"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3", "mean", "std"]
    assert max(map(len, lines)) <= 80
    assert ">valid_loss</th>" in found._repr_html_()


@pytest.mark.parametrize("seed", range(3))
def test_every_item_is_validated_once(seed):
    for stratify, groups in ((None, None), (Y, None), (None, torch.arange(30) // 4)):
        folds = make_folds(30, 4, stratify, groups, seed)
        assert torch.cat([valid for _, valid in folds]).sort().values.tolist() == list(range(30))
        assert all(len(train) + len(valid) == 30 for train, valid in folds)
        assert max(len(valid) for _, valid in folds) - min(len(valid) for _, valid in folds) <= (
            4 if groups is not None else 1
        )


def test_classes_are_shared_out_and_groups_kept_together():
    labels = ["a"] * 20 + ["b"] * 10
    for _, valid in make_folds(30, 5, labels, None, 0):
        assert [sum(labels[n] == name for n in valid.tolist()) for name in "ab"] == [4, 2]
    groups = np.arange(30) % 7
    for train, valid in make_folds(30, 3, None, groups, 0):
        assert not set(groups[train]) & set(groups[valid])


def test_a_rare_class_is_reported():
    with pytest.warns(LearnerWarning, match="a class has 2 items, fewer than the 5 folds"):
        make_folds(30, 5, [1] * 28 + [2] * 2, None, 0)


def test_folds_are_taken_from_the_user_or_from_scikit_learn():
    pairs = [(range(20), range(20, 30)), (np.arange(30) >= 10, np.arange(30) < 10)]
    found = learner.cross_validate(make, (X, Y), folds=pairs, n_epochs=1)
    assert [(row["n_train"], row["n_valid"]) for row in found.rows] == [(20, 10), (20, 10)]
    found = learner.cross_validate(make, (X, Y), folds=StratifiedKFold(3), stratify=Y, n_epochs=1)
    assert len(found.rows) == 3
    by_default = learner.cross_validate(make, (X, Y), folds=StratifiedKFold(3), n_epochs=1)
    assert by_default.rows == found.rows  # the targets are the classes


def test_data_sets_and_named_inputs_are_split_too():
    found = learner.cross_validate(make, TensorDataset(X, Y), 2, n_epochs=1, batch_size=4)
    assert [row["n_valid"] for row in found.rows] == [15, 15]
    named = learner.cross_validate(lambda data: make(data), ({"input": X}, {"y": Y}), 2, n_epochs=1)
    assert len(named.rows) == 2


def test_a_second_argument_is_the_number_of_the_fold_and_fit_trains(tmp_path):
    def numbered(data, fold):
        return make(data, callbacks=[Checkpoint(tmp_path / str(fold)), EarlyStopping(patience=1)])

    found = learner.cross_validate(numbered, (X, Y), 2, fit=lambda learn: learn.fit_one_cycle(3, 0.1))
    assert [row["n_epochs"] for row in found.rows] == [3, 3]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0", "1"]


def test_the_results_are_those_of_the_weights_that_the_fit_leaves():
    def stopped(data):
        learn = make(data, callbacks=[EarlyStopping(patience=1)])
        learn.optimizer.param_groups[0]["lr"] = 100.0
        return learn

    found = learner.cross_validate(stopped, (X, Y), 2, n_epochs=6)
    for row, history in zip(found.rows, found.histories, strict=True):
        assert row["valid_loss"] == pytest.approx(min(history["valid_loss"]))


def test_an_error_names_its_fold():
    def failing(data, fold):
        learn = make(data)
        if fold == 1:
            learn.loss_func = lambda preds, targets: 1 / 0
        return learn

    with pytest.raises(ZeroDivisionError) as caught:
        learner.cross_validate(failing, (X, Y), 3, n_epochs=1)
    assert "in fold 1 of 3 (from 0)" in caught.value.__notes__


MODEL = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"k": 1}, ValueError, "from 2 to the 30 items"),
        ({"k": 31}, ValueError, "from 2 to the 30 items"),
        ({"n_epochs": None}, ValueError, "pass either n_epochs=, or fit="),
        ({"stratify": Y[:5]}, ValueError, "pass a label for each of the 30 items"),
        ({"stratify": X[:, 0]}, TypeError, "not whole"),
        ({"stratify": Y, "groups": Y}, ValueError, "pass one of them"),
        ({"groups": Y}, ValueError, "only 2 groups"),
        ({"folds": [([0, 1], [1, 2])]}, ValueError, "fold 0 validates on 1 items that it trains on"),
        ({"folds": [([0, 1], [30])]}, ValueError, "from 0 to 29"),
        ({"folds": []}, ValueError, "is empty"),
        ({"folds": 3}, TypeError, "pass pairs"),
        ({"data": X}, TypeError, r"pass a pair \(inputs, targets\)"),
        ({"data": Data([(X, Y)])}, TypeError, "must not be in batches yet"),
        ({"make_learner": lambda: make((X, Y))}, TypeError, "Let it take the data"),
        ({"make_learner": lambda data: None}, TypeError, "return a Learner"),
        ({"make_learner": lambda data: make((X, Y))}, ValueError, "must pass the data that it gets"),
        ({"epochs": 3}, TypeError, "n_epochs"),
        ({"seed": "x"}, ValueError, r"cross_validate\(seed='x'\): pass a whole number from 0 to 4294967295"),
        ({"n_inputs": 2}, TypeError, r"no effect on tensors, .* a tuple: \(\(first, second\), targets\)"),
        ({"data": TensorDataset(X, Y), "order": "items"}, TypeError, "no effect on a data set, which takes"),
    ],
)
def test_an_impossible_cross_validation_is_refused(settings, error, words):
    given = {"make_learner": make, "data": (X, Y), "n_epochs": 1, **settings}
    with pytest.raises(error, match=words):
        learner.cross_validate(**given)


def test_a_model_that_has_seen_the_other_folds_is_refused():
    def again(data):
        learn = make(data)
        learn.model = MODEL
        return learn

    with pytest.raises(ValueError, match="has seen the items of this fold"):
        learner.cross_validate(again, (X, Y), 2, n_epochs=0)
