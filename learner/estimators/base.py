"""What the estimators share: they train a learner on arrays, and predict for arrays."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.core import draws
from callbacks.core.missing_names import Arguments
from callbacks.history.history import History
from callbacks.record.progress import Progress
from learner.data.batching import TensorLoader
from learner.data.data import Data
from learner.data.seeds import seed_everything
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.estimators.losses import (
    EstimatorLearner,
    EstimatorLoss,
    OutputCheck,
    first_output,
    inputs_and_targets,
)
from learner.estimators.parameters import NestedParameters, made, made_callbacks
from learner.learner import Learner


class LearnerEstimator(NestedParameters):
    """What both estimators share. Their constructors document the parameters."""

    #: Set by `fit`, as in scikit-learn with `_` at the end.
    learner_: Learner
    n_features_in_: int

    def __init__(
        self,
        make_module: Any,
        *,
        optimizer: Any = torch.optim.Adam,
        loss_func: Any = None,
        n_epochs: int = 10,
        batch_size: int = 64,
        valid: Any = None,
        callbacks: Any = (),
        metrics: Any = (),
        seed: int | None = None,
        warm_start: bool = False,
        verbose: bool = False,
        dtype: Any = "float32",
        **settings: Any,
    ):
        self.make_module, self.optimizer, self.loss_func = make_module, optimizer, loss_func
        self.n_epochs, self.batch_size, self.valid = n_epochs, batch_size, valid
        self.callbacks, self.metrics, self.seed = callbacks, metrics, seed
        self.warm_start, self.verbose, self.dtype = warm_start, verbose, dtype
        vars(self).update(settings)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803 (scikit-learn's name)
        """Train a new module for `n_epochs` epochs; with `warm_start`, continue with that of the last fit.

        Args:
            X: an array of shape (items, ...), or a DataFrame.
            y: the targets, one row per item.
            sample_weight: the weight of each item in the loss, shape (items,).
        """
        return self._train(X, y, sample_weight, is_new=not (self.warm_start and hasattr(self, "learner_")))

    def predict_raw(self, X: Any) -> Tensor:  # noqa: N803
        """What the module returns for each item, in evaluation mode."""
        check_is_fitted(self, "learner_")
        X = validate_data(self, X, reset=False, dtype=self.dtype, allow_nd=True)  # noqa: N806
        loader = TensorLoader((tensor(X),), 2 * self.batch_size)
        return self.learner_.get_preds(loader, keep=first_output)[0]

    @property
    def module_(self) -> nn.Module:
        """The trained module."""
        check_is_fitted(self, "learner_")
        return self.learner_.model

    @property
    def history_(self) -> History:
        """The history of all fits of the module."""
        check_is_fitted(self, "learner_")
        return self.learner_.history

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.seed is None
        return tags

    def _learn_targets(self, y: Any, classes: Any) -> None:
        """Keep what a new module must know about the targets."""

    def _as_targets(self, y: Any) -> np.ndarray:
        """The targets as numbers."""
        raise NotImplementedError

    def _n_classes(self) -> int | None:
        """The number of classes; None for regression."""
        return None

    def _train(self, X: Any, y: Any, sample_weight: Any, is_new: bool, classes: Any = None) -> Any:  # noqa: N803
        self._check_names()
        X, y = validate_data(  # noqa: N806
            self, X, y, reset=is_new, dtype=self.dtype, allow_nd=True, multi_output=True
        )
        if is_new:
            self._learn_targets(y, classes)
        targets = self._as_targets(y)
        columns = (tensor(targets),)
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)
            columns = (*columns, tensor(weight / weight.mean()))
        with self._seeded(0 if is_new else len(self.learner_.history)):
            data = self._data(tensor(X), columns)
            n_outputs = self._n_classes() or int(np.prod(targets.shape[1:]))
            learn = self._make(data, X.shape[1], n_outputs) if is_new else self.learner_
            learn.data = data
            leave_out_a_single_item(learn)
            learn.fit(self.n_epochs, callbacks=[OutputCheck])
        forget_data(learn, (tensor(X[:2]), tensor(targets[:2])))
        self.learner_ = learn
        return self

    def _data(self, inputs: Tensor, columns: tuple[Tensor, ...]) -> Data:
        valid = self.valid
        if isinstance(valid, (tuple, list)):
            X, y = valid  # noqa: N806
            X = validate_data(self, X, reset=False, dtype=self.dtype, allow_nd=True)  # noqa: N806
            valid = tensor(X), (tensor(self._as_targets(y)), *[torch.ones(len(X))] * (len(columns) - 1))
        data = Data.from_tensors(inputs, columns, self.batch_size, valid=valid)
        return Data(data.train, data.valid, split=inputs_and_targets)

    def _make(self, data: Data, n_features: int, n_outputs: int) -> Learner:
        for name in ("make_module", "optimizer"):
            check_maker(name, getattr(self, name))
        settings = self._settings("module")
        known = inspect.signature(self.make_module).parameters
        for name, value in {"n_features": n_features, "n_outputs": n_outputs}.items():
            if name in known:
                settings.setdefault(name, value)
        check_settings(self.make_module, settings)
        loss_func = self.loss_func and made(self.loss_func, self._settings("loss_func"))
        return EstimatorLearner(
            self.make_module(**settings),
            data,
            EstimatorLoss(loss_func, self._n_classes(), self.make_module),
            partial(self.optimizer, **self._settings("optimizer")),
            made_callbacks(self.callbacks, self._settings("callbacks")),
            self.metrics,
            defaults=[each for each in DEFAULT_CALLBACKS if self.verbose or each is not Progress],
        )

    @contextmanager
    def _seeded(self, n_epochs_before: int) -> Iterator[None]:
        """Draw from the seed and restore the global random states; without a seed, draw from them."""
        if self.seed is None:
            yield
            return
        if not isinstance(self.seed, Integral):
            raise TypeError(f"seed={self.seed!r}: pass a whole number, or None for the global random states.")
        with draws.undrawn():
            seed_everything(int(self.seed) + n_epochs_before)
            yield


def check_maker(name: str, value: Any) -> None:
    """Refuse an argument that does not make something new for each fit."""
    if isinstance(value, (nn.Module, torch.optim.Optimizer)) or not callable(value):
        raise TypeError(
            f"{name}={value!r}: pass a class or a function that makes one, because each fit needs a new one."
        )


def check_settings(make_module: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a setting `module__...` that is not an argument of the function that makes the module."""
    parameters = inspect.signature(make_module).parameters.values()
    taken = Arguments([each.replace(name=f"module__{each.name}") for each in parameters])
    taken.check(
        getattr(make_module, "__name__", str(make_module)), 0, [f"module__{each}" for each in settings]
    )


def leave_out_a_single_item(learn: Learner) -> None:
    """Leave out one item per epoch if the last batch would have only one, which batch norm refuses."""
    loader: Any = learn.data.train
    is_alone = loader.n_items % loader.batch_size == 1 < loader.n_items
    loader.drop_last = is_alone and any(isinstance(each, _BatchNorm) for each in learn.model.modules())


def tensor(array: Any) -> Tensor:
    """A tensor of an array that nobody else writes to."""
    return torch.from_numpy(np.array(array))


def forget_data(learn: Learner, batch: tuple[Tensor, ...]) -> None:
    """Keep one small batch of the data, so that an estimator and its pickle stay small."""
    learn.data = Data([batch], split=inputs_and_targets)
    learn.loop.known = learn.loop.known.without_passes()
    learn.batch = learn.inputs = learn.targets = learn.preds = None
