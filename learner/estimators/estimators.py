"""`LearnerClassifier` and `LearnerRegressor`: learners with the interface of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastcore.meta import delegates
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from learner.estimators.base import LearnerEstimator
from learner.estimators.losses import predicted, probabilities
from learner.estimators.parameters import ClassifierMixin, RegressorMixin


class LearnerClassifier(ClassifierMixin, LearnerEstimator):
    """A classifier with the interface of scikit-learn around a `Learner`.

    A parameter with a prefix is an argument of what the estimator makes: `module__hidden=32`,
    `optimizer__lr=0.01`, `loss_func__label_smoothing=0.1`, `callbacks__EarlyStopping__patience=3`.

    Args:
        make_module: a class or function that returns a new module. If it has an argument `n_features` or
            `n_outputs`, it receives the number of columns of X and of classes. The module returns one score
            per class (logits), or for two classes one number per item.
        optimizer: a class such as `torch.optim.SGD`, or a function that takes parameters.
        loss_func: a class such as `nn.NLLLoss`, an instance or a function of `(preds, targets)`; None for
            cross-entropy.
        n_epochs: epochs per call of `fit` and `partial_fit`.
        batch_size: items per batch.
        valid: data for validation: a share of the items, their number or a pair, as for `Data.from_tensors`.
        callbacks: instances, classes or partials; each fit uses new ones.
        metrics: as for `Learner`.
        classes: all classes, in order; None for those in `y`.
        seed: for the module, the order of the items and all random draws of a fit. With a seed, the global
            random states stay as they are; None to draw from them.
        warm_start: `fit` continues with the module of the last fit.
        verbose: print a line per epoch.
        dtype: what X is converted to; None to keep whole numbers, as for embeddings.
        settings: parameters with a prefix.

    Attributes:
        classes_: the classes, in the order of the scores.
        history_: the history of the training.
        learner_: the learner, without its data.
        module_: the trained module.

    Raises:
        TypeError, ValueError: in `fit`, for parameters or data that cannot be used.
    """

    classes: Any
    classes_: np.ndarray

    @delegates(LearnerEstimator.__init__, keep=True)
    def __init__(self, make_module: Any, *, classes: Any = None, **settings: Any):
        super().__init__(make_module, **settings)
        self.classes = classes

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803
        """Train for `n_epochs` more epochs, on new data or the same.

        Args:
            X: as for `fit`.
            y: the classes of the items.
            classes: in the first call, all classes; by default those in `y`.
            sample_weight: as for `fit`.
        """
        return self._train(X, y, sample_weight, is_new=not hasattr(self, "learner_"), classes=classes)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each class, shape (items, classes)."""
        scores = self.predict_raw(X)
        loss: Any = self.learner_.loss_func
        return probabilities(scores, loss).numpy()

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable class of each item."""
        numbers = self.predict_proba(X).argmax(1)
        return self.classes_[numbers]

    def _learn_targets(self, y: Any, classes: Any) -> None:
        check_classification_targets(y)
        if np.ndim(y) == 2 and np.shape(y)[1] > 1:
            raise ValueError(
                f"{type(self).__name__} takes one class per item, but y has the shape {np.shape(y)}. For "
                "several labels per item use LearnerRegressor with loss_func=nn.BCEWithLogitsLoss; it "
                "predicts their probabilities."
            )
        given = self.classes if classes is None else classes
        self.classes_ = np.unique(column_or_1d(y)) if given is None else np.asarray(given)
        if len(set(self.classes_.tolist())) < len(self.classes_):
            raise ValueError(f"classes={self.classes_.tolist()!r}: pass each class once.")
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} got data with one class, {self.classes_.tolist()}, but needs two "
                "or more. If this is only a part of the data, pass classes=[...]."
            )

    def _as_targets(self, y: Any) -> np.ndarray:
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        numbers = {name: number for number, name in enumerate(self.classes_.tolist())}
        unknown = [name for name in np.unique(y).tolist() if name not in numbers]
        if unknown:
            raise ValueError(f"the class {unknown[0]!r} is not among the classes {self.classes_.tolist()}.")
        return np.array([numbers[name] for name in y.tolist()], dtype=np.int64)

    def _n_classes(self) -> int:
        return len(self.classes_)


class LearnerRegressor(RegressorMixin, LearnerEstimator):
    """A regressor with the interface of scikit-learn around a `Learner`.

    Parameters and attributes are those of `LearnerClassifier`, without `classes`. The module returns one
    number per item and target, and `n_outputs` is the number of targets.

    Args:
        make_module: a class or function that returns a new module.
        optimizer: a class such as `torch.optim.SGD`, or a function that takes parameters.
        loss_func: a class such as `nn.HuberLoss`, an instance or a function; None for mean squared error.
        n_epochs: epochs per call of `fit` and `partial_fit`.
        batch_size: items per batch.
        valid: data for validation, as for `Data.from_tensors`.
        callbacks: instances, classes or partials; each fit uses new ones.
        metrics: as for `Learner`.
        seed: for all random draws of a fit; None for the global random states.
        warm_start: `fit` continues with the module of the last fit.
        verbose: print a line per epoch.
        dtype: what X is converted to; None to keep whole numbers.
        settings: parameters with a prefix, such as `module__hidden=32`.

    Raises:
        TypeError, ValueError: in `fit`, for parameters or data that cannot be used.
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        """Train for `n_epochs` more epochs, on new data or the same."""
        return self._train(X, y, sample_weight, is_new=not hasattr(self, "learner_"))

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The predicted targets, in the shape of those of `fit`.

        For a loss of torch that takes log-rates or scores (`PoissonNLLLoss`, `BCEWithLogitsLoss`) these are
        the rates or probabilities; `predict_raw` returns what the module returns.
        """
        output = self.predict_raw(X).double()
        loss: Any = self.learner_.loss_func
        preds = predicted(output, loss.loss_func).numpy()
        return preds.reshape(len(preds), *self._shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _learn_targets(self, y: Any, classes: Any) -> None:
        self._shape = np.asarray(y).shape[1:]

    def _as_targets(self, y: Any) -> np.ndarray:
        return check_array(y, dtype="float32", ensure_2d=False)
