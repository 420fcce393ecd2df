"""Learners in scikit-learn's pipelines, searches and cross-validation."""

from __future__ import annotations

import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from upper.estimating import NAMES, X, Y, classifier, network, regressor

from callbacks import EarlyStopping, accuracy
from learner import LearnerClassifier


class Wrapped(nn.Module):
    """A module whose argument is positional."""

    def __init__(self, hidden):
        super().__init__()
        self.layers = network(3, 3, hidden)

    def forward(self, x):
        return self.layers(x)


def weights(estimator):
    return torch.cat([each.flatten() for each in estimator.module_.parameters()]).detach()


def test_a_classifier_learns_names_from_float64():
    fitted = classifier(n_epochs=30).fit(X, Y)
    assert fitted.score(X, Y) > 0.9
    assert fitted.classes_.tolist() == NAMES.tolist()
    assert fitted.predict_proba(X).shape == (60, 3)
    assert np.allclose(fitted.predict_proba(X).sum(1), 1)
    assert len(fitted.history_) == 30


def test_a_regressor_learns_one_target_or_several():
    several = np.stack([X.sum(1), X[:, 0]], 1)
    for y in (X.sum(1), several):
        fitted = regressor(n_epochs=40).fit(X, y)
        assert fitted.predict(X).shape == y.shape
        assert fitted.score(X, y) > 0.8


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_states():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, second = classifier().fit(X, Y), classifier().fit(X, Y)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert weights(first).equal(weights(second))
    assert before[0].equal(after[0])
    assert before[1:] == after[1:]
    assert not weights(first).equal(weights(classifier(seed=1).fit(X, Y)))


def test_without_a_seed_the_global_state_decides():
    torch.manual_seed(5)
    first = classifier(seed=None).fit(X, Y)
    torch.manual_seed(5)
    assert weights(first).equal(weights(classifier(seed=None).fit(X, Y)))


def test_nested_parameters_reach_what_the_estimator_makes():
    fitted = LearnerClassifier(
        Wrapped, optimizer=torch.optim.SGD, optimizer__lr=0.25, module__hidden=5, n_epochs=1, seed=0
    ).fit(X, Y)
    assert fitted.module_.layers[0].out_features == 5
    assert fitted.learner_.optimizer.param_groups[0]["lr"] == 0.25
    smooth = classifier(loss_func=nn.CrossEntropyLoss, loss_func__label_smoothing=0.3).fit(X, Y)
    assert not weights(smooth).equal(weights(classifier().fit(X, Y)))


def test_parameters_are_copied_set_and_listed():
    made = classifier(module__hidden=5)
    copied = clone(made).set_params(module__hidden=6, optimizer__weight_decay=0.1, n_epochs=2)
    assert made.get_params()["module__hidden"] == 5
    assert {copied.module__hidden, copied.optimizer__weight_decay, copied.n_epochs} == {6, 0.1, 2}
    names = set(copied.get_params())
    copied.fit(X, Y)
    assert set(copied.get_params()) == names == set(clone(copied).get_params())


def test_a_misspelt_parameter_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"has no parameter 'n_epoch'\. Did you mean n_epochs"):
        classifier().set_params(n_epoch=3)
    with pytest.raises(TypeError, match=r"no parameter 'optimiser__lr'\. Did you mean optimizer__lr"):
        classifier(optimiser__lr=3).fit(X, Y)
    with pytest.raises(TypeError, match=r"'module__hiden'.* Did you mean module__hidden\?"):
        classifier(module__hiden=3).fit(X, Y)


def test_callbacks_are_new_in_each_fit_and_have_nested_parameters():
    stopping = EarlyStopping("train_loss", patience=1, min_delta=10.0)
    fitted = classifier(callbacks=[stopping]).fit(X, Y)
    assert len(fitted.history_) == 2
    assert not hasattr(stopping, "learn")
    assert fitted.learner_.callbacks[EarlyStopping] is not stopping
    made = partial(EarlyStopping, "train_loss", min_delta=10.0)
    fitted = classifier(callbacks=[made], callbacks__EarlyStopping__patience=4).fit(X, Y)
    assert len(fitted.history_) == 5
    with pytest.raises(
        ValueError, match="callbacks__EarlyStopping__patience: no callback was passed as this class"
    ):
        classifier(callbacks=[stopping], callbacks__EarlyStopping__patience=4).fit(X, Y)


def test_a_pipeline_in_a_grid_search():
    pipeline = make_pipeline(StandardScaler(), classifier(n_epochs=5))
    grid = {"learnerclassifier__module__hidden": [2, 8], "learnerclassifier__optimizer__lr": [1e-6, 0.1]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.best_params_["learnerclassifier__optimizer__lr"] == 0.1
    assert search.predict(X[:2]).shape == (2,)


def test_cross_validation_with_a_class_that_a_fold_lacks():
    in_order = np.repeat(NAMES, 20)
    assert cross_val_score(classifier(), X, in_order, cv=KFold(3)).tolist() == [0, 0, 0]
    for fold, _ in KFold(3).split(X):
        assert classifier(classes=NAMES).fit(X[fold], in_order[fold]).predict_proba(X).shape == (60, 3)
    with pytest.raises(ValueError, match=r"with one class, \['ash'\].*pass classes=\[\.\.\.\]"):
        classifier().fit(X[Y == "ash"], Y[Y == "ash"])
    assert set(classifier(classes=NAMES).fit(X[Y == "ash"], Y[Y == "ash"]).predict(X)) == {"ash"}


def test_a_pickle_predicts_the_same_and_holds_no_data():
    many = np.tile(X, (200, 1))
    fitted = classifier(n_epochs=1).fit(many, np.tile(Y, 200))
    stored = pickle.dumps(fitted)
    assert len(stored) < many.nbytes / 4
    assert np.array_equal(pickle.loads(stored).predict_proba(X), fitted.predict_proba(X))


def test_partial_fit_and_warm_start_continue_training():
    once = classifier(n_epochs=2)
    for _ in range(3):
        once.partial_fit(X, Y, classes=NAMES)
    assert len(once.history_) == 6
    warm = classifier(n_epochs=2, warm_start=True).fit(X, Y)
    module = warm.module_
    assert len(warm.fit(X, Y).history_) == 4
    assert warm.module_ is module
    assert len(warm.set_params(warm_start=False).fit(X, Y).history_) == 2
    assert warm.module_ is not module
    with pytest.raises(ValueError, match="the class 'oak' is not among the classes"):
        once.partial_fit(X, np.where(Y == "ash", "oak", Y))


def test_weights_of_zero_leave_items_out():
    y = X.sum(1)
    wrong = np.concatenate([y, y + 100])
    both = np.concatenate([X, X])
    fitted = regressor(n_epochs=40).fit(both, wrong, sample_weight=np.repeat([1.0, 0.0], 60))
    assert fitted.score(X, y) > 0.8
    assert regressor(n_epochs=40).fit(both, wrong).score(X, y) < 0
    with pytest.raises(TypeError, match="has no reduction='none'"):
        regressor(loss_func=mean_error).fit(X, y, sample_weight=np.ones(60))


def mean_error(preds, targets):
    return (preds - targets).abs().mean()


def test_metrics_and_validation_data_are_in_the_history():
    weight = np.ones(60)
    fitted = classifier(valid=(X[:9], Y[:9]), metrics=[accuracy]).fit(X, Y, sample_weight=weight)
    assert fitted.history_["valid_accuracy"][-1] == fitted.score(X[:9], Y[:9])
    assert "valid_loss" in classifier(valid=0.2).fit(X, Y).history_.rows[0]
