"""Measure: the losses of each pass, and metrics."""

from __future__ import annotations

import copy
import inspect
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from functools import partial
from operator import mul
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

import torch
from torch import Tensor

from callbacks.contract import Callback, Direction, LearnerProtocol, Order, snake_case
from callbacks.device import map_tensors
from callbacks.measures.metric_states import described, put_state, state_of
from callbacks.parts.scalars import Scalars
from callbacks.parts.warning import warn

# What functions call the targets, where they take them first.
TARGETS_FIRST = ("y_true", "target", "targets", "label", "labels")


@runtime_checkable
class Metric(Protocol):
    """What can be measured over a pass; torchmetrics' objects are such, and so may be yours.

    `higher_is_better` (True, False or None) tells plug-ins that compare which way is better.
    """

    def reset(self) -> Any:
        """Forget all that was seen."""

    def update(self, preds: Any, targets: Any) -> Any:
        """See one batch."""

    def compute(self) -> Any:
        """The value over all batches seen: a number, a tensor, or a dict of them by name."""


class Metrics(Callback):
    """Measure the mean loss of each pass and any metrics, and write them to `learn.results`.

    The names are `train_loss` and `valid_loss`, a metric's own in snake case after its pass, as in
    `valid_rmse`, and `lr`, the first parameter group's rate at the end of the training pass. Losses and
    functions are averaged by number of items, so a smaller last batch counts for less. Numbers stay on the
    device until the pass ends.

    Args:
        metrics: `Metric`s, torchmetrics' objects, or functions of `(preds, targets)` that give a batch's
            mean; a function's attribute `metric`, as `accuracy` has one, is the class that is measured in
            its place, so that counts stay exact. Where the model's output has `.logits`, as Hugging Face's,
            those are the preds.
        on: the passes in which metrics are measured; losses are measured in both always.

    Raises:
        TypeError: something is no metric.
        ValueError: two metrics have one name.
    """

    order = Order.MEASURE
    state = ("under_way",)

    def __init__(
        self, *metrics: Any, on: Literal["valid", "train", "both"] = "valid", name: str | None = None
    ):
        super().__init__(name=name)
        if on not in ("valid", "train", "both"):
            raise ValueError(f"Metrics(on={on!r}): there are 'valid', 'train' and 'both'.")
        self.metrics, self.on = metrics, on
        by_name = named_metrics(metrics)
        self._results: dict[str, Any] = {}  # those of the validation under way
        self._around: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of those around it
        self._passes = {
            "train": Measured("train", by_name if on != "valid" else {}),
            "valid": Measured(
                "valid", copy.deepcopy(by_name) if on == "both" else by_name if on == "valid" else {}
            ),
        }

    @property
    def under_way(self) -> dict[str, Any]:
        """What the passes that have begun and not ended have added up, by pass, as plain data."""
        return {name: each.state_dict() for name, each in self._passes.items() if each.is_open}

    @under_way.setter
    def under_way(self, states: dict[str, Any]) -> None:
        for name, each in self._passes.items():
            each.is_open = name in states
            if each.is_open:
                each.load_state_dict(states[name])

    def before_fit(self, learn: LearnerProtocol) -> None:
        for each in self._passes.values():
            each.is_open = False
        self._around.clear()
        passes = ("train",) if learn.data.valid is None else ("train", "valid")
        self.measures = {"lr": None}
        for each in passes:
            self.measures |= self._passes[each].names()

    def before_train(self, learn: LearnerProtocol) -> None:
        self._around.clear()
        self._passes["train"].reset(learn)

    def before_validate(self, learn: LearnerProtocol) -> None:
        valid = self._passes["valid"]
        if valid.is_open:  # somebody validates within a validation, or one was left in the middle
            self._around.append((self._results, valid.state_dict()))
        self._results = learn.results
        valid.reset(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            self._come_back(learn)
        measured = self._passes["train" if learn.training else "valid"]
        if measured.is_open:  # else this was added in the middle of the pass
            measured.update(learn)

    def _come_back(self, learn: LearnerProtocol) -> None:
        """Go on with the validation around one that has ended; which it is its results tell."""
        while self._around and learn.results is not self._results:
            self._results, state = self._around.pop()
            if learn.results is self._results:
                self._passes["valid"].load_state_dict(state)
                self._passes["valid"].is_open = True

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._passes["train"].is_open:
            learn.results |= self._passes["train"].compute()
        rate = learn.optimizer.param_groups[0].get("lr")
        if rate is not None:
            learn.results["lr"] = float(rate)

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._come_back(learn)
        if learn.stop_reason and learn.batch_idx + 1 != learn.n_batches:
            return  # stopped in the middle: numbers of a part would be taken for the whole
        if learn.n_batches == 0 and not self._passes["valid"].n_items:
            warn("the validation data gave no batch, so nothing was measured on it.")
        if self._passes["valid"].is_open:
            learn.results |= self._passes["valid"].compute()


class Measured:
    """The loss and the metrics of one pass; functions are averaged as the loss is."""

    def __init__(self, prefix: str, metrics: dict[str, Any]):
        self.prefix, self.metrics = prefix, metrics
        self.objects = [metric for metric in metrics.values() if isinstance(metric, Metric)]
        self.movable = [metric for metric in metrics.values() if hasattr(metric, "to")]
        self.functions = {name: each for name, each in metrics.items() if not isinstance(each, Metric)}
        self.n_items = array("d")
        self.losses = Scalars()
        self.values = {name: Scalars() for name in self.functions}
        self.told = [described(name, metric) for name, metric in metrics.items()]
        self.is_open = False  # between `reset` and `compute`
        self.device = torch.device("cpu")

    def names(self) -> dict[str, Direction | None]:
        """The results' names, each with its better direction."""
        found: dict[str, Direction | None] = {"loss": "min"}
        for name, metric in self.metrics.items():
            parts = metric.items() if hasattr(metric, "items") else [(name, metric)]  # of a MetricCollection
            found |= {snake_case(part): direction_of(each) for part, each in parts}
        return {f"{self.prefix}_{name}": better for name, better in found.items()}

    def reset(self, learn: LearnerProtocol) -> None:
        """Begin a pass, on the model's device."""
        self.is_open = True
        self.n_items = array("d")
        self.losses.clear()
        for scalars in self.values.values():
            scalars.clear()
        if self.objects or self.movable:  # to find the device takes longer than all else here
            self.device = learn.device
        for metric in self.movable:
            metric.to(self.device)
        for metric in self.objects:
            metric.reset()

    def update(self, learn: LearnerProtocol) -> None:
        """See the batch under way."""
        self.losses.append(learn.loss_value)
        self.n_items.append(learn.n_items)
        if self.metrics:
            preds, targets = detached(learn.preds), learn.targets
            for metric in self.objects:
                metric.update(preds, targets)
            for name, function in self.functions.items():
                value = function(preds, targets)
                check_value(name, value)
                self.values[name].append(value)

    def compute(self) -> dict[str, Any]:
        """The pass's numbers by name; waits for the device, once a metric."""
        self.is_open = False
        if not self.n_items:
            return {}
        loss = weighted_mean(self.losses.read(), self.n_items)
        if not self.metrics:
            return {f"{self.prefix}_loss": loss}
        found: dict[str, Any] = {"loss": loss}
        for name, metric in self.metrics.items():
            if name in self.values:
                found[name] = weighted_mean(self.values[name].read(), self.n_items)
                continue
            value = metric.compute()
            parts = value if isinstance(value, Mapping) else {name: value}
            found |= {snake_case(str(key)): as_number(part) for key, part in parts.items()}
        return {f"{self.prefix}_{name}": value for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """What was added up so far, as plain data; waits for the device."""
        return {
            "metrics": self.told,
            "n_items": self.n_items[:],
            "losses": self.losses.read()[:],
            "values": {name: scalars.read()[:] for name, scalars in self.values.items()},
            "objects": [state_of(metric) for metric in self.objects],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: it is of other metrics.
        """
        if state["metrics"] != self.told:
            then, now = (", ".join(each) or "none" for each in (state["metrics"], self.told))
            raise ValueError(
                f"Metrics: the {self.prefix} pass under way was measured by other metrics (then, now):\n"
                f"  {then}\n  {now}\nGo on with those of then, and change them where an epoch has ended."
            )
        self.n_items, self.losses = state["n_items"][:], Scalars(state["losses"][:])
        self.values = {name: Scalars(values[:]) for name, values in state["values"].items()}
        for metric, each in zip(self.objects, state["objects"], strict=True):
            put_state(metric, each, self.device)


def named_metrics(metrics: tuple[Any, ...]) -> dict[str, Any]:
    """Each metric under its name in snake case; classes without arguments become instances."""
    made = [as_metric(metric) for metric in metrics]
    names = [metric_name(metric) for metric in made]
    if "loss" in names:
        raise ValueError("a metric is called 'loss', as the loss itself: give it another name.")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"{count} metrics are called {name!r}: give one a `name` attribute of its own, as in "
                f"metric.name = 'my_{name}'."
            )
    return dict(zip(names, made, strict=True))


def as_metric(metric: Any) -> Any:
    """The metric that was meant: an object, or a function.

    Raises:
        TypeError: it has no `reset`, `update` and `compute`, and is no function; or a class needs arguments.
    """
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
    if isinstance(exact := getattr(metric, "metric", None), type):  # of which it is one batch's form
        return exact()
    if callable(metric) and not isinstance(metric, type):
        check_order(metric)
        return metric
    hint = " Give metrics one by one, not in a list." if isinstance(metric, (list, tuple)) else ""
    if isinstance(metric, str):
        hint = (
            f" Names are for recipes; here it is the thing itself, as from callbacks import {named(metric)}."
        )
    elif isinstance(metric, type) and issubclass(metric, torch.nn.Module):
        hint = f" Pass an instance, {metric.__name__}()."
    raise TypeError(
        f"{metric!r} is no metric: pass a function of (preds, targets), or an object with reset, update and "
        f"compute.{hint}"
    )


def named(word: str) -> str:
    """Our name of the metric that is meant by a word, or an example."""
    import callbacks

    ours = [
        name
        for name in callbacks.__all__
        if name == "accuracy" or hasattr(getattr(callbacks, name), "compute")
    ]
    return next((name for name in ours if name.lower() == word.lower()), "accuracy")


def check_order(function: Any) -> None:
    """Refuse a function that takes targets first, as scikit-learn's do: many measure otherwise then."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin that does not tell
        return
    if names[:1] and names[0] in TARGETS_FIRST:
        title = getattr(function, "__name__", "metric")
        raise ValueError(
            f"the metric {title} takes {names[0]!r} first, but is called with (preds, targets): turn them "
            f"round, as in def my_{title}(preds, targets): return {title}(targets, preds)."
        )


def metric_name(metric: Any) -> str:
    """The name it gives itself, or its function's or class's, in snake case."""
    function = metric.func if isinstance(metric, partial) else metric
    name = getattr(metric, "name", None) or getattr(function, "__name__", type(function).__name__)
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"the metric {metric!r} has no name to record it under: write it as a function with def, or give "
            "it one, as in metric.name = 'my_metric'."
        )
    return snake_case(name)


def direction_of(metric: Any) -> Direction | None:
    """Which way is better, where the metric tells."""
    function = metric.func if isinstance(metric, partial) else metric
    higher: bool | None = getattr(function, "higher_is_better", None)
    return None if higher is None else ("max" if higher else "min")


def check_value(name: str, value: Any) -> None:
    """Refuse what cannot be averaged."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"the metric {name} gave a tensor of shape {tuple(value.shape)} for a batch: give one number, as "
            "with .mean()."
        )
    if not isinstance(value, (Tensor, SupportsFloat)):
        raise TypeError(f"the metric {name} gave {value!r} for a batch: return one number.")


def detached(preds: Any) -> Any:
    """A model's output, or its `.logits`, without its graph, which a metric that keeps it would hold."""
    if type(preds) is Tensor:
        return preds.detach()
    return map_tensors(
        getattr(preds, "logits", preds), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
    )


def weighted_mean(values: array[float], weights: array[float]) -> float:
    """Mean of values that count by their weights; NaN where nothing weighs anything."""
    total = sum(weights)
    if not total:
        return math.nan
    if all(weights):
        return sum(map(mul, values, weights)) / total
    # the mean of an empty batch is NaN, and would stay so times 0
    return sum(value * weight for value, weight in zip(values, weights, strict=True) if weight) / total


def as_number(value: Any) -> Any:
    """A number, or nested lists of them, off the device."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return map_tensors(value, as_number)
