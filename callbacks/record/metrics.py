"""Measure: the losses of each pass, and metrics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, SupportsFloat

import torch
from torch import Tensor

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order, snake_case
from callbacks.core.warning import warn
from callbacks.measures.as_metrics import Metric, direction_of, named_metrics
from callbacks.measures.linearity import Trial
from callbacks.measures.metric_states import described, put_state, state_of
from callbacks.place.device import map_tensors
from callbacks.results.loss_weight import LossWeight, Weight
from callbacks.results.means import Mean
from callbacks.results.numbers import as_number
from callbacks.results.reductions import reduction_of


class Metrics(Callback):
    """Measure the mean loss of each pass and any metrics, and write them to `learn.results`.

    The names are `train_loss` and `valid_loss`, a metric's own in snake case after its pass, as in
    `valid_rmse`, and `lr`, the first parameter group's rate at the end of the training pass. Numbers stay on
    the device until the pass ends.

    A mean loss is the loss of all batches joined, however they are split: a batch counts by what its loss
    divides by. For torch's own losses, as functions, modules or `functools.partial`, that is known: the
    elements of `mse_loss`; the targets of `cross_entropy` that are not ignored, or the sum of their class
    weights; a batch without any does not count. A loss with `reduction="sum"` is added up. Of a Hugging Face
    model's own loss it is the labels that are not -100. Any other loss counts by number of items, or by
    `weight`. The same holds for functions among the metrics. Where the loss function returns None in
    validation, as for a model that has losses in training mode only, no loss is measured there.

    Args:
        metrics: `Metric`s, torchmetrics' objects, or functions of `(preds, targets)` that give a batch's
            mean; a function's attribute `metric`, as `accuracy` has one, is the class that is measured in
            its place, so that counts stay exact. Where the model's output has `.logits`, as Hugging Face's,
            those are the preds. A function that takes several targets gets them one by one, as a loss does.
        on: the passes in which metrics are measured; losses are measured in both always.
        weight: how much a batch counts, as a function of the learner that gives a number or a tensor of one
            (which is not waited for): `lambda learn: (learn.targets != PAD).sum()` for a loss of your own
            that is a mean over tokens. It holds for the loss, and for all functions but torch's losses.

    Raises:
        TypeError: something is not a metric.
        ValueError: two metrics have one name, or `weight` is not a function.
    """

    order = Order.MEASURE
    state = ("under_way",)

    def __init__(
        self,
        *metrics: Any,
        on: Literal["valid", "train", "both"] = "valid",
        weight: Weight | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if on not in ("valid", "train", "both"):
            raise ValueError(f"Metrics(on={on!r}): there are 'valid', 'train' and 'both'.")
        self.metrics, self.on, self.weight = metrics, on, weight
        by_name = named_metrics(metrics)
        self._results: dict[str, Any] = {}  # those of the validation under way
        self._around: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of those around it
        on_valid = copy.deepcopy(by_name) if on == "both" else by_name if on == "valid" else {}
        self._passes = {
            "train": Measured("train", by_name if on != "valid" else {}, weight),
            "valid": Measured("valid", on_valid, weight),
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
        if learn.n_batches == 0 and not self._passes["valid"].n_batches:
            warn("the validation data yielded no batch, so nothing was measured on it.")
        valid = self._passes["valid"]
        if valid.is_open:
            learn.results |= valid.compute()
        if valid.n_batches and not valid.loss.n_batches:  # the loss function returned None
            self.measures = {name: each for name, each in self.measures.items() if name != "valid_loss"}


class Measured:
    """The loss and the metrics of one pass."""

    def __init__(self, prefix: str, metrics: dict[str, Any], weight: Weight | None = None):
        self.prefix, self.metrics = prefix, metrics
        self.objects = [metric for metric in metrics.values() if isinstance(metric, Metric)]
        self.movable = [metric for metric in metrics.values() if hasattr(metric, "to")]
        self.functions = {name: each for name, each in metrics.items() if not isinstance(each, Metric)}
        self.reductions = {name: reduction_of(each) for name, each in self.functions.items()}
        self.weight = LossWeight(weight)
        self.loss, self.n_batches = Mean(), 0
        self.means = {name: Mean() for name in self.functions}
        self.adds_up = False  # the loss, in this pass
        self.trial = Trial({name: each for name, each in self.functions.items() if not self.knows(name)})
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
        self.weight.look(learn)
        self.adds_up = self.weight.adds_up(learn)
        self.loss.clear()
        self.n_batches = 0
        for mean in self.means.values():
            mean.clear()
        if self.trial.functions:
            self.trial.clear()
        if self.objects or self.movable:  # to find the device takes longer than all else here
            self.device = learn.device
        for metric in self.movable:
            metric.to(self.device)
        for metric in self.objects:
            metric.reset()

    def update(self, learn: LearnerProtocol) -> None:
        """See the batch under way."""
        self.n_batches += 1
        loss = learn.loss_value
        if loss is not None:  # in validation a loss function may return None
            self.loss.add(loss, self.weight.of(learn))
        if self.metrics:
            preds, targets = detached(learn.preds), learn.targets
            for metric in self.objects:
                metric.update(preds, targets)
            self._call(learn, preds, targets)

    def _call(self, learn: LearnerProtocol, preds: Any, targets: Any) -> None:
        """Call the functions on a batch."""
        found = {}
        for name, function in self.functions.items():
            value = function(preds, targets)
            check_value(name, value)
            found[name] = value, self._weigh(name, learn, preds, targets)
            self.means[name].add(*found[name])
        if self.trial.is_on:
            self.trial.see(preds, targets, found)

    def knows(self, name: str) -> bool:
        """Is a function one of torch's losses, or a sum, so that it is known how it reduces?"""
        return self.reductions[name].weigh is not None or self.reductions[name].adds_up

    def _weigh(self, name: str, learn: LearnerProtocol, preds: Any, targets: Any) -> float | Tensor:
        """How much the batch counts in a function's mean."""
        weigh = self.reductions[name].weigh
        apart = targets if type(targets) is tuple else (targets,)
        found = None if weigh is None else weigh(preds, *apart)
        if found is not None:
            return found
        return learn.n_items if self.weight.given is None else self.weight.given(learn)

    def compute(self) -> dict[str, Any]:
        """The pass's numbers by name; waits for the device, once for each metric."""
        self.is_open = False
        if not self.n_batches:
            return {}
        found: dict[str, Any] = {}
        if self.loss.n_batches:
            found["loss"] = self.loss.compute(adds_up=self.adds_up)
        self.trial.report()
        for name, metric in self.metrics.items():
            if name in self.means:
                found[name] = self.means[name].compute(adds_up=self.reductions[name].adds_up)
                continue
            value = metric.compute()
            parts = value if isinstance(value, Mapping) else {name: value}
            found |= {snake_case(str(key)): as_number(part) for key, part in parts.items()}
        return {f"{self.prefix}_{name}": value for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """What was added up so far, as plain data; waits for the device."""
        return {
            "metrics": self.told,
            "n_batches": self.n_batches,
            "adds_up": self.adds_up,
            "loss": self.loss.state_dict(),
            "means": {name: mean.state_dict() for name, mean in self.means.items()},
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
                f"  {then}\n  {now}\nContinue with those of then, and change them where an epoch has ended."
            )
        self.n_batches, self.adds_up = state["n_batches"], state["adds_up"]
        self.loss.load_state_dict(state["loss"])
        for name, mean in self.means.items():
            mean.load_state_dict(state["means"][name])
        for metric, each in zip(self.objects, state["objects"], strict=True):
            put_state(metric, each, self.device)


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
