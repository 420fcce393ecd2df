"""Nested parameters: `module__hidden=32` is an argument of `make_module`, as in skorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from callbacks.core.contract import Callback

if TYPE_CHECKING:  # scikit-learn has no types

    class BaseEstimator:
        """What is used of scikit-learn's class."""

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        @classmethod
        def _get_param_names(cls) -> list[str]: ...
        def __sklearn_tags__(self) -> Any: ...

    class ClassifierMixin:
        """What is used of scikit-learn's class."""

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...  # noqa: N803

    RegressorMixin = ClassifierMixin
else:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

__all__ = ["ClassifierMixin", "NestedParameters", "RegressorMixin", "made", "made_callbacks"]

#: What stands before `__`.
PREFIXES = ("module", "optimizer", "loss_func", "callbacks")


class NestedParameters(BaseEstimator):
    """Parameters of an estimator, and settings as `optimizer__lr` for what it makes."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, nested ones included."""
        return {**super().get_params(deep), **self._nested()}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name; nested ones need not exist yet."""
        own = {name: value for name, value in params.items() if name in self._get_param_names()}
        for name, value in params.items():
            if name in own or name in self._nested() or prefix_of(name) in PREFIXES:
                setattr(self, name, value)
            else:
                raise ValueError(self._unknown(name))
        return self

    def _nested(self) -> dict[str, Any]:
        """The settings that are not parameters of the constructor; names that a fit adds end with `_`."""
        own, there = self._get_param_names(), vars(self).items()
        return {name: each for name, each in there if name not in own and "_" not in (name[0], name[-1])}

    def _check_names(self) -> None:
        """Refuse unknown settings. This waits for `fit`, as scikit-learn asks for."""
        for name in self._nested():
            if prefix_of(name) not in PREFIXES:
                raise TypeError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        known = [*self._get_param_names(), *(f"{each}__..." for each in PREFIXES)]
        close = get_close_matches(name.split("__")[0], [each.removesuffix("__...") for each in known], n=1)
        hint = f" Did you mean {'__'.join([*close, *name.split('__')[1:]])}?" if close else ""
        return f"{type(self).__name__} has no parameter {name!r}.{hint} Available: {', '.join(known)}."

    def _settings(self, prefix: str) -> dict[str, Any]:
        """The settings with a prefix, without it."""
        start = f"{prefix}__"
        found = self._nested().items()
        return {name.removeprefix(start): value for name, value in found if name.startswith(start)}


def prefix_of(name: str) -> str | None:
    """The part before the first `__`, if there is one."""
    prefix, separator, _ = name.partition("__")
    return prefix if separator else None


def made(make: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """A function with these settings; a class is instantiated."""
    if not callable(make):
        raise TypeError(f"{make!r} is not callable: pass a class or function, as in loss_func=nn.HuberLoss.")
    return make(**settings) if isinstance(make, type) else partial(make, **settings) if settings else make


def made_callbacks(given: Any, settings: dict[str, Any]) -> list[Callback]:
    """New callbacks for a fit.

    Instances are copied; classes and functions such as `partial(EarlyStopping, "loss")` are called with those
    `settings` that begin with their name, such as `{"EarlyStopping__patience": 3}`.
    """
    found, left = [], dict(settings)
    for each in [given] if isinstance(given, (Callback, type, partial)) else given:
        if isinstance(each, Callback):
            found.append(copy.deepcopy(each))
            continue
        if not callable(each):
            raise TypeError(
                f"callbacks={given!r}: {each!r} is not a Callback, nor a class or partial of one."
            )
        target: Any = getattr(each, "func", each)
        title = target.__name__ + "__"
        own = {name: left.pop(name) for name in [*left] if name.startswith(title)}
        found.append(each(**{name.removeprefix(title): value for name, value in own.items()}))
    if left:
        name = next(iter(left))
        raise ValueError(
            f"callbacks__{name}: no callback was passed as this class. Pass the class or a partial, as in "
            "callbacks=[partial(EarlyStopping, 'train_loss')] with callbacks__EarlyStopping__patience=3."
        )
    return found
