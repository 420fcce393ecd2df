"""Metrics as objects, functions or classes, with their names and directions."""

from __future__ import annotations

import inspect
from collections import Counter
from functools import partial, wraps
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import torch
from torch import Tensor

from callbacks.core.contract import Direction
from callbacks.core.definition import snake_case
from callbacks.core.modules import base_of, plain_name
from callbacks.measures import class_counts, classification, perplexity, ranking, scores

# Names of the targets in functions that take them first.
TARGETS_FIRST = ("y_true", "target", "targets", "label", "labels")


METRICS = (class_counts, classification, perplexity, ranking, scores)  # modules of metrics


@runtime_checkable
class Metric(Protocol):
    """A quantity that is measured over a pass: an object of torchmetrics, or one of your own.

    Callbacks that compare epochs read `higher_is_better` (True, False or None). To train in several
    processes, your own metric also needs `merge(other)`, which adds the counts of another instance.
    """

    def reset(self) -> Any:
        """Start a pass."""

    def update(self, preds: Any, targets: Any) -> Any:
        """Add one batch."""

    def compute(self) -> Any:
        """The value over all batches so far: a number, a tensor, or a dict of them by name."""


def named_metrics(metrics: tuple[Any, ...]) -> dict[str, Any]:
    """Each metric under its name in snake case; classes without arguments become instances."""
    made = [as_metric(metric) for metric in metrics]
    names = [metric_name(metric) for metric in made]
    if "loss" in names:
        raise ValueError("a metric is named 'loss', like the loss itself: give it another name.")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"{count} metrics are named {name!r}: give one its own `name` attribute, as in "
                f"metric.name = 'my_{name}'."
            )
    return dict(zip(names, made, strict=True))


def as_metric(metric: Any) -> Any:
    """The metric as an object or a function."""
    if isinstance(metric, type) and isinstance(metric, Metric):
        try:
            inspect.signature(metric).bind()
        except TypeError as error:
            raise TypeError(
                f"the metric {metric.__name__} needs arguments ({error}): pass {metric.__name__}(...)."
            ) from None
        return metric()
    if isinstance(metric, Metric):
        return metric
    if isinstance(exact := getattr(metric, "metric", None), type):  # a function with an exact form for a pass
        return exact()
    if callable(metric) and not isinstance(metric, type):
        check_order(metric)
        return spread(metric) if n_required(metric) > 2 else metric
    hint = " Pass metrics one by one, not in a list." if isinstance(metric, (list, tuple)) else ""
    if isinstance(metric, str):
        hint = f" Names are for recipes; here pass the object itself: from callbacks import {named(metric)}."
    elif isinstance(metric, type) and issubclass(metric, torch.nn.Module):
        hint = f" Pass an instance, {metric.__name__}()."
    raise TypeError(
        f"{metric!r} is not a metric: pass a function of (preds, targets), or an object with reset, update "
        f"and compute.{hint}"
    )


def n_required(function: Any) -> int:
    """How many positional arguments a function, or the `forward` of a module, requires."""
    inner, args, keywords = function, (), {}
    if isinstance(function, partial):
        inner, args, keywords = function.func, function.args, function.keywords
    called = inner.forward if isinstance(inner, torch.nn.Module) else inner
    try:
        parameters = inspect.signature(partial(called, *args, **keywords)).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return 2
    in_a_row = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in in_a_row and each.default is each.empty for each in parameters)


def spread(function: Any) -> Any:
    """Make a metric of (preds, targets) from a function with several targets, as a loss takes them."""

    @wraps(function, updated=() if isinstance(function, torch.nn.Module) else ("__dict__",))
    def measure(preds: Any, targets: Any) -> Any:
        return function(preds, *targets) if isinstance(targets, tuple) else function(preds, targets)

    measure.one_by_one = function  # type: ignore[attr-defined]
    return measure


def named(word: str) -> str:
    """The name of the metric that a string means, or an example."""
    found = {name: each for module in METRICS for name, each in vars(module).items()}
    exact = {each.metric for each in found.values() if hasattr(each, "metric")}  # the class behind `accuracy`
    metrics = {name for name, each in found.items() if hasattr(each, "compute") and each not in exact}
    return next((name for name in metrics if name.lower() == word.lower()), "accuracy")


def check_order(function: Any) -> None:
    """Refuse a function that takes targets first, like scikit-learn's: many give another value then."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    if names[:1] and names[0] in TARGETS_FIRST:
        title = getattr(function, "__name__", "metric")
        raise ValueError(
            f"the metric {title} takes {names[0]!r} first, but is called with (preds, targets). To call "
            "it once on a whole pass, write from callbacks import whole_pass, and pass "
            f"whole_pass({title}); for the mean of its values for batches, def my_{title}(preds, "
            f"targets): return {title}(targets, preds)."
        )


def check_value(name: str, value: Any) -> None:
    """Raise an error for a value that cannot be averaged."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"the metric {name} returned a tensor of shape {tuple(value.shape)} for a batch: return one "
            "number, for example with .mean()."
        )
    if not isinstance(value, (Tensor, SupportsFloat)):
        raise TypeError(f"the metric {name} returned {value!r} for a batch: return one number.")


def metric_name(metric: Any) -> str:
    """The metric's own name, or that of its function or class, in snake case."""
    metric = getattr(metric, "one_by_one", metric)
    name = getattr(metric, "name", None) or plain_name(metric)
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"the metric {metric!r} has no name to record it under: write it as a function with def, or give "
            "it one, as in metric.name = 'my_metric'."
        )
    return snake_case(name)


def direction_of(metric: Any) -> Direction | None:
    """Which direction is better, if the metric declares it."""
    metric = getattr(metric, "one_by_one", metric)
    higher: bool | None = getattr(base_of(metric), "higher_is_better", None)
    return None if higher is None else ("max" if higher else "min")
