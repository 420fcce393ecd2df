"""Call a function once, on the predictions and targets of a whole pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from callbacks.core.missing_names import suggest_arguments
from callbacks.core.modules import base_of
from callbacks.core.output import with_article
from callbacks.measures.as_metrics import TARGETS_FIRST, metric_name
from callbacks.measures.joined import joined, kept
from callbacks.place.device import map_tensors

# Is higher better, by the last word of scikit-learn's names?
BETTER = {"score": True, "auc": True, "corrcoef": True, "error": False, "loss": False, "deviance": False}


@suggest_arguments
def whole_pass(
    function: Callable[..., Any],
    *,
    targets_first: bool | None = None,
    higher_is_better: bool | None = None,
    name: str | None = None,
) -> WholePass:
    """A metric that calls a function once on the joined predictions and targets of a pass.

    Use it for functions that are not a mean over items, such as scikit-learn's F1, R2 or ROC AUC, a median,
    or the root of a mean: `metrics=[whole_pass(f1_score)]`. The function gets tensors on the CPU, all batches
    joined along their first dimension. scikit-learn's own functions get NumPy arrays; those that compare
    classes get the class with the highest score for predictions of shape (items, classes).

    All predictions and targets of a pass are kept on their device until it ends. That takes memory: 40 MB for
    10 000 items of 1000 scores. `F1`, `R2` and most other metrics of `callbacks` need almost none.

    Args:
        function: takes `(preds, targets)` and returns a number, an array or tensor, or a dict of them by
            name.
        targets_first: the function takes `(targets, preds)`; by default this follows from the name of its
            first argument, as scikit-learn's `y_true`.
        higher_is_better: for callbacks that compare epochs; by default the function's own attribute, or the
            convention of scikit-learn's names: a score is better if high, an error or loss if low.
        name: the name of the result; by default the function's name.

    Raises:
        TypeError: it is not a function, or has no name.
        ValueError: when the pass ends: the batches cannot be joined.
    """
    return WholePass(function, targets_first=targets_first, higher_is_better=higher_is_better, name=name)


class WholePass:
    """The metric that `whole_pass` makes."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        targets_first: bool | None = None,
        higher_is_better: bool | None = None,
        name: str | None = None,
    ):
        if not callable(function) or isinstance(function, type) or hasattr(function, "compute"):
            raise TypeError(
                f"whole_pass({function!r}): pass a function of (preds, targets). An object with reset, "
                "update and compute needs no whole_pass."
            )
        self.function, self.name = function, name or metric_name(function)
        self.targets_first = takes_targets_first(function) if targets_first is None else targets_first
        self.higher_is_better = direction(function) if higher_is_better is None else higher_is_better
        self.reset()

    def reset(self) -> None:
        """Start a pass."""
        self.preds: list[Any] = []
        self.targets: list[Any] = []
        self._value: Any = math.nan  # of the last pass

    def update(self, preds: Any, targets: Any) -> None:
        """Keep a copy of a batch."""
        self.preds.append(kept(preds))
        self.targets.append(kept(targets))

    def merge(self, other: WholePass) -> None:
        """Add the batches of another one, in another process."""
        self.preds, self.targets = self.preds + other.preds, self.targets + other.targets

    def compute(self) -> Any:
        """Call the function, and drop the batches."""
        if not self.preds:
            return self._value
        preds, targets = joined(self.preds), joined(self.targets)
        self.reset()
        if is_from_sklearn(self.function):
            preds, targets = as_arrays(self.function, preds, targets)
        try:
            found = self.function(targets, preds) if self.targets_first else self.function(preds, targets)
        except Exception as error:
            error.add_note(
                f"in the metric whole_pass({self.name}), with {shown(preds)} as predictions and "
                f"{shown(targets)} as targets. To change them first, write def "
                f"my_{self.name}(preds, targets): ... and pass whole_pass(my_{self.name})."
            )
            raise
        self._value = map_numbers(found)
        return self._value

    def state_dict(self) -> dict[str, Any]:
        """The batches so far."""
        return {"preds": list(self.preds), "targets": list(self.targets)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.preds, self.targets = list(state["preds"]), list(state["targets"])

    def __repr__(self) -> str:
        return f"whole_pass({self.name})"


def is_from_sklearn(function: Any) -> bool:
    """Is it a function of scikit-learn?"""
    return str(getattr(base_of(function), "__module__", "")).startswith("sklearn.")


def takes_targets_first(function: Any) -> bool:
    """Is its first argument named like targets?"""
    try:
        return next(iter(signature(function).parameters), None) in TARGETS_FIRST
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def direction(function: Any) -> bool | None:
    """Is higher better? By the function's attribute, or the last word of scikit-learn's names."""
    base = base_of(function)
    own = getattr(base, "higher_is_better", None)
    if own is not None or not is_from_sklearn(base):
        return own
    return BETTER.get(base.__name__.rsplit("_", 1)[-1])


def as_arrays(function: Any, preds: Any, targets: Any) -> tuple[Any, Any]:
    """The arguments for scikit-learn: arrays, and classes for functions that compare classes."""
    compares_classes = "y_pred" in signature(function).parameters and base_of(function).__module__.endswith(
        "_classification"
    )
    are_scores = isinstance(preds, Tensor) and preds.is_floating_point() and preds.ndim == 2
    if compares_classes and are_scores and isinstance(targets, Tensor) and targets.ndim == 1:
        preds = preds.argmax(1) if preds.shape[1] > 1 else preds
    return map_tensors(preds, as_array), map_tensors(targets, as_array)


def as_array(leaf: Any) -> Any:
    """A tensor as an array; half precision as float32, since NumPy has no bfloat16."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.float() if leaf.dtype in (torch.bfloat16, torch.float16) else leaf).numpy()


def map_numbers(value: Any) -> Any:
    """Plain numbers, and lists and dicts of them."""
    if isinstance(value, dict):
        return {key: map_numbers(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [map_numbers(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def shown(part: Any) -> str:
    """What a message calls predictions or targets."""
    shape = getattr(part, "shape", None)
    return with_article(part) if shape is None else f"{part.dtype} of shape {tuple(shape)}"
