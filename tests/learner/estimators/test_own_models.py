"""Models, losses and data that an estimator takes, and those that it refuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from processes import run
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn import functional as F
from upper.estimating import X, Y, adam, classifier, regressor, rng

from callbacks import LearnerWarning
from learner import LearnerClassifier, LearnerRegressor


@pytest.mark.parametrize(
    ("loss_func", "last"),
    [
        (None, nn.Identity()),
        (nn.BCELoss, nn.Sigmoid()),
        (partial(F.binary_cross_entropy, reduction="mean"), nn.Sigmoid()),
    ],
)
def test_two_classes_need_one_output(loss_func, last):
    def single(n_features):
        return nn.Sequential(nn.Linear(n_features, 1), last)

    y = X[:, 0] > 0
    fitted = LearnerClassifier(single, optimizer=adam, loss_func=loss_func, n_epochs=30, seed=0).fit(X, y)
    assert fitted.score(X, y) > 0.9
    assert fitted.predict(X).dtype == bool
    assert np.allclose(fitted.predict_proba(X).sum(1), 1)


def ending_in(last, n_features, n_outputs=1):
    return nn.Sequential(nn.Linear(n_features, n_outputs), last)


def several(n_features, n_outputs):
    return ending_in(nn.Softmax(1), n_features, n_outputs)


def single(n_features):
    return ending_in(nn.Sigmoid(), n_features)


def plain(n_features):
    return nn.Linear(n_features, 1)


@pytest.mark.parametrize("make", [several, single])
@pytest.mark.parametrize("settings", [{}, {"sample_weight": np.ones(len(X))}], ids=["", "weights"])
def test_probabilities_that_the_loss_takes_for_scores_are_reported_once(make, settings):
    with pytest.warns(LearnerWarning, match=r"the model returns probabilities .* takes scores") as caught:
        LearnerClassifier(make, n_epochs=2, seed=0).fit(X, X[:, 0] > 0, **settings)
    assert len(caught) == 1


def test_cross_entropy_of_one_number_per_item_is_refused():
    with pytest.raises(ValueError, match="one number per item"):
        LearnerClassifier(plain, loss_func=nn.CrossEntropyLoss, n_epochs=1).fit(X, X[:, 0] > 0)


def brier(preds, targets):
    return (preds - targets).pow(2).mean()


def log_score(preds, targets):
    return -preds[torch.arange(len(targets)), targets].log().mean()


@pytest.mark.parametrize(
    ("make", "loss_func"),
    [
        (single, nn.MSELoss),
        (plain, nn.HuberLoss),
        (single, brier),
        (several, log_score),
    ],
)
def test_probabilities_are_predicted_as_the_loss_compares_them(make, loss_func):
    fitted = LearnerClassifier(make, loss_func=loss_func, optimizer=adam, n_epochs=30, seed=0)
    fitted.fit(X, X[:, 0] > 0)
    returned = fitted.predict_raw(X)[:, -1].double().clamp(0, 1).numpy()
    assert np.allclose(fitted.predict_proba(X)[:, 1], returned)
    assert fitted.score(X, X[:, 0] > 0) > 0.9


def test_a_module_of_log_probabilities_is_used_with_its_loss():
    def logs(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, n_outputs), nn.LogSoftmax(1))

    fitted = LearnerClassifier(logs, optimizer=adam, loss_func=nn.NLLLoss, n_epochs=2, seed=0).fit(X, Y)
    assert np.allclose(fitted.predict_proba(X).sum(1), 1)


def test_scores_are_not_taken_for_log_probabilities():
    with pytest.warns(LearnerWarning, match="the model returns scores, but NLLLoss takes log-prob"):
        fitted = classifier(loss_func=nn.NLLLoss, n_epochs=2).fit(X, Y)
    with pytest.raises(ValueError, match=r"NLLLoss takes log-probabilities.*nn.LogSoftmax\(1\)"):
        fitted.predict_proba(X)


@pytest.mark.parametrize(
    ("loss_func", "right"),
    [
        (nn.PoissonNLLLoss, torch.exp),
        (partial(F.poisson_nll_loss, full=True), torch.exp),
        (nn.BCEWithLogitsLoss(), torch.sigmoid),
        (nn.HuberLoss, torch.clone),
    ],
)
def test_a_regressor_predicts_in_the_unit_of_the_targets(loss_func, right):
    fitted = regressor(loss_func=loss_func, n_epochs=1).fit(X, (X[:, 0] > 0).astype(float))
    assert np.allclose(fitted.predict(X), right(fitted.predict_raw(X)).numpy().reshape(-1), atol=1e-6)


def test_rates_that_a_module_returns_are_predicted_as_they_are():
    def rates(n_features):
        return nn.Sequential(nn.Linear(n_features, 1), nn.Softplus())

    fitted = LearnerRegressor(rates, loss_func=nn.PoissonNLLLoss(log_input=False), n_epochs=1)
    fitted.fit(X, (X[:, 0] > 0).astype(float))
    assert np.allclose(fitted.predict(X), fitted.predict_raw(X).numpy()[:, 0])


def test_a_class_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="pass each class once"):
        classifier(classes=["no", "no", "yes"]).fit(X, np.where(X[:, 0] > 0, "yes", "no"))


def test_whole_numbers_stay_whole_for_embeddings():
    def reads(n_features):
        return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4 * n_features, 2))

    tokens = rng.integers(0, 9, size=(30, 5))
    fitted = LearnerClassifier(reads, n_epochs=1, seed=0, dtype=None).fit(tokens, tokens[:, 0] > 4)
    assert fitted.predict(tokens).shape == (30,)


def test_images_are_accepted():
    def sees(n_outputs):
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, n_outputs))

    images = rng.normal(size=(20, 1, 5, 5))
    assert LearnerRegressor(sees, n_epochs=1, seed=0).fit(images, images.sum((1, 2, 3))).predict(
        images
    ).shape == (20,)


@pytest.mark.parametrize(
    ("make", "y", "words"),
    [
        (LearnerClassifier, Y, r"returned the shape \(20, 7\) for 3 classes"),
        (LearnerRegressor, X.sum(1), r"returned the shape \(20, 7\) for targets of the shape \(20,\)"),
    ],
)
def test_a_module_with_a_wrong_number_of_outputs_is_refused(make, y, words):
    with pytest.raises(ValueError, match=words):
        make(lambda: nn.Linear(3, 7), batch_size=20, n_epochs=1).fit(X, y)


def test_a_module_that_returns_a_mapping_is_refused():
    class Named(nn.Linear):
        def forward(self, x):
            return {"mean": super().forward(x)}

    with pytest.raises(TypeError, match="Named returned a dict with the keys 'mean': return a tensor"):
        LearnerRegressor(Named, module__in_features=3, module__out_features=1, n_epochs=1).fit(X, X.sum(1))


def test_several_labels_per_item_are_predicted_by_the_regressor_that_the_classifier_names():
    labels = (X[:, :2] > 0).astype(int)
    with pytest.raises(ValueError, match=r"LearnerRegressor with loss_func=nn\.BCEWithLogitsLoss"):
        LearnerClassifier(lambda: nn.Linear(3, 2), n_epochs=1).fit(X, labels)
    model = LearnerRegressor(lambda: nn.Linear(3, 2), loss_func=nn.BCEWithLogitsLoss, n_epochs=1).fit(
        X, labels
    )
    assert np.allclose(model.predict(X), model.predict_raw(X).double().sigmoid())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"make_module": nn.Linear(3, 3)}, "make_module=Linear.*pass a class or a function that makes one"),
        ({"optimizer": "Adam"}, "optimizer='Adam': pass a class or a function"),
        ({"loss_func": "mse"}, "'mse' is not callable"),
        ({"callbacks": [3]}, "3 is not a Callback"),
        ({"seed": np.random.RandomState(0)}, "pass a whole number, or None"),
    ],
    ids=["module", "optimizer", "loss", "callback", "seed"],
)
def test_an_argument_that_makes_nothing_new_is_refused_in_the_fit(settings, words):
    with pytest.raises(TypeError, match=words):
        classifier().set_params(**settings).fit(X, Y)


def test_batch_norm_is_trained_where_one_item_would_be_left_over():
    def normed(n_features, n_outputs):
        return nn.Sequential(nn.BatchNorm1d(n_features), nn.Linear(n_features, n_outputs))

    fitted = LearnerClassifier(normed, batch_size=59, n_epochs=2, seed=0).fit(X, Y)
    assert fitted.learner_.global_step == 2


def test_the_first_of_several_outputs_is_the_prediction():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x), x

    assert LearnerClassifier(Two, n_epochs=1, seed=0).fit(X, Y).predict(X).shape == (60,)


def test_a_prediction_before_the_fit_is_refused():
    for use in (classifier().predict, classifier().predict_proba, regressor().predict):
        with pytest.raises(NotFittedError):
            use(X)


def test_a_fitted_estimator_exports_its_model(tmp_path):
    fitted = classifier(n_epochs=1).fit(X, Y)
    fitted.learner_.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    scores = program(torch.tensor(X, dtype=torch.float32))
    assert np.allclose(scores.softmax(1).numpy(), fitted.predict_proba(X), atol=1e-6)


def test_a_data_frame_keeps_its_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    fitted = classifier().fit(frame, pandas.Series(Y))
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame.rename(columns={"a": "z"}))


def test_scikit_learn_is_imported_when_it_is_needed_and_named_when_it_is_missing():
    code = """
import sys, learner
assert "sklearn" not in sys.modules
sys.modules["sklearn"] = None
from learner import LearnerClassifier
"""
    done = run("-c", code)
    assert 'needs scikit-learn, which is missing: pip install "plainlearner[sklearn]"' in done.stderr
