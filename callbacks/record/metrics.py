"""Measure the loss and the metrics of each pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order, snake_case
from callbacks.core.ranks import Ranks
from callbacks.core.warning import warn
from callbacks.measures.as_metrics import Metric, check_value, direction_of, named_metrics
from callbacks.measures.joined import detached
from callbacks.measures.linearity import Trial
from callbacks.measures.merging import check_merges, merge_into, own_state, without_own_sync
from callbacks.measures.metric_states import described, put_state, state_of
from callbacks.results.loss_weight import LossWeight, Weight
from callbacks.results.means import Mean, interleaved
from callbacks.results.numbers import as_number
from callbacks.results.reductions import reduction_of


class Metrics(Callback):
    """Measure the mean loss of each pass and any metrics, and write them to `learn.results`.

    The names are `train_loss` and `valid_loss`; the name of a metric in snake case after its pass, such as
    `valid_rmse`; and `lr`, the rate of the first parameter group at the end of the training pass. Numbers
    stay on the device until the end of the pass.

    A mean loss does not depend on how the data are split into batches: a batch counts by the number that its
    loss divides by. This number is known for torch's own losses, as functions, modules or
    `functools.partial`: the elements of `mse_loss`; the targets of `cross_entropy` that are not ignored, or
    the sum of their class weights. A batch where it is 0 does not count. Losses with `reduction="sum"` are
    added up. The own loss of a Hugging Face model counts by the labels that are not -100, any other loss by
    number of items, or by `weight`. The same holds for functions among the metrics. If the loss function
    returns None in validation, as for a model that has losses in training mode only, no loss is measured
    there.

    Args:
        metrics: `Metric`s, torchmetrics objects, or functions of `(preds, targets)` that return the mean of a
            batch. If a function has an attribute `metric`, as `accuracy` has, that class is measured instead,
            so that counts stay exact. If the model's output has `.logits`, as in Hugging Face models, these
            are the preds. A function that takes several targets receives them one by one, like a loss.
        on: the passes in which metrics are measured; losses are always measured in both.
        weight: how much a batch counts: a function of the learner that returns a number, or a tensor with one
            number (which is not waited for), such as `lambda learn: (learn.targets != PAD).sum()` for your
            own loss that is a mean over tokens. It applies to the loss, and to all functions except torch's
            losses.

    Raises:
        TypeError: something is not a metric.
        ValueError: two metrics have one name, or `weight` is not a function.
    """

    order = Order.MEASURE
    state = ("under_way",)
    differs_by_rank = True

    def __init__(
        self,
        *metrics: Any,
        on: Literal["valid", "train", "both"] = "valid",
        weight: Weight | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if on not in ("valid", "train", "both"):
            raise ValueError(f"Metrics(on={on!r}): pass 'valid', 'train' or 'both'.")
        self.metrics, self.on, self.weight = metrics, on, weight
        by_name = named_metrics(metrics)
        self._results: dict[str, Any] = {}  # of the current validation
        self._around: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of the validations around it
        on_valid = copy.deepcopy(by_name) if on == "both" else by_name if on == "valid" else {}
        self._passes = {
            "train": Measured("train", by_name if on != "valid" else {}, weight),
            "valid": Measured("valid", on_valid, weight),
        }

    @property
    def under_way(self) -> dict[str, Any]:
        """The sums of the current passes, by pass, as plain data."""
        return {name: each.state_dict() for name, each in self._passes.items() if each.is_open}

    @under_way.setter
    def under_way(self, states: dict[str, Any]) -> None:
        for name, each in self._passes.items():
            each.is_open = name in states
            if each.is_open:
                each.load_state_dict(states[name])

    def joined_state(self, ranks: Ranks) -> dict[str, Any]:
        """The state of all processes together; each must call this."""
        own = self.state_dict()
        for each in self._passes.values():
            if each.is_open:
                each.join(ranks)
        found = self.state_dict()
        self.load_state_dict(own)
        return found

    def clear_state(self) -> None:
        """Continue the current passes without the batches before."""
        for each in self._passes.values():
            if each.is_open:
                each.clear()

    def before_fit(self, learn: LearnerProtocol) -> None:
        for each in self._passes.values():
            each.is_open = False
            if learn.ranks.size > 1:
                each.check_merges()
        self._around.clear()
        self.measures = {"lr": None, **self._passes["train"].names()}
        for name in learn.data.validations:
            self.measures |= self._passes["valid"].names(name)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._around.clear()
        self._passes["train"].reset(learn)

    def before_validate(self, learn: LearnerProtocol) -> None:
        valid = self._passes["valid"]
        if valid.is_open:  # a validation within a validation, or one that did not end
            self._around.append((self._results, valid.state_dict()))
        self._results = learn.results
        valid.reset(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            self._return_to_outer(learn)
        measured = self._passes["train" if learn.training else "valid"]
        if measured.is_open and learn.ranks.n_here != 0:  # otherwise this callback was added within the pass
            measured.update(learn)

    def _return_to_outer(self, learn: LearnerProtocol) -> None:
        """Continue the validation around one that has ended, which its results identify."""
        while self._around and learn.results is not self._results:
            self._results, state = self._around.pop()
            if learn.results is self._results:
                self._passes["valid"].load_state_dict(state)
                self._passes["valid"].is_open = True

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._passes["train"].is_open:
            self._passes["train"].join(learn.ranks)
            learn.results |= self._passes["train"].compute()
        rate = learn.optimizer.param_groups[0].get("lr")
        if rate is not None:
            learn.results["lr"] = float(rate)

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._return_to_outer(learn)
        if learn.stop_reason and learn.batch_idx + 1 != learn.n_batches:
            return  # stopped within the pass: numbers of a part would look like those of the whole
        if learn.n_batches == 0 and not self._passes["valid"].n_batches:
            warn("the validation data yielded no batch, so nothing was measured on it.")
        valid = self._passes["valid"]
        valid.prefix = learn.pass_name
        if valid.is_open and not learn.is_aside:
            valid.join(learn.ranks)
        if valid.is_open:
            learn.results |= valid.compute()
        if valid.n_batches and not valid.loss.n_batches:  # the loss function returned None
            missing = f"{learn.pass_name}_loss"
            self.measures = {name: each for name, each in self.measures.items() if name != missing}


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
        self.adds_up = False  # does the loss add up in this pass?
        self.trial = Trial({name: each for name, each in self.functions.items() if not self.knows(name)})
        self.descriptions = [described(name, metric) for name, metric in metrics.items()]
        self.is_open = False  # between `reset` and `compute`
        self.device = torch.device("cpu")

    def names(self, prefix: str | None = None) -> dict[str, Direction | None]:
        """The names of the results, each with the direction in which it is better."""
        found: dict[str, Direction | None] = {"loss": "min"}
        for name, metric in self.metrics.items():
            parts = metric.items() if hasattr(metric, "items") else [(name, metric)]  # of a MetricCollection
            found |= {snake_case(part): direction_of(each) for part, each in parts}
        return {f"{prefix or self.prefix}_{name}": better for name, better in found.items()}

    def reset(self, learn: LearnerProtocol) -> None:
        """Start a pass, on the model's device."""
        self.is_open = True
        self.weight.look(learn)
        self.adds_up = self.weight.adds_up(learn)
        if self.trial.functions:
            self.trial.clear()
        if self.objects or self.movable:  # finding the device takes longer than everything else here
            self.device = learn.device
        for metric in self.movable:
            metric.to(self.device)
        self.clear()

    def clear(self) -> None:
        """Forget all batches."""
        self.loss.clear()
        self.n_batches = 0
        for mean in self.means.values():
            mean.clear()
        for metric in self.objects:
            metric.reset()

    def update(self, learn: LearnerProtocol) -> None:
        """Add the current batch."""
        self.n_batches += 1
        loss = learn.ranks.loss_here(learn)
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
        """Is the function one of torch's losses or a sum, so that its reduction is known?"""
        return self.reductions[name].weigh is not None or self.reductions[name].adds_up

    def _weigh(self, name: str, learn: LearnerProtocol, preds: Any, targets: Any) -> float | Tensor:
        """How much the batch counts in the mean of a function."""
        weigh = self.reductions[name].weigh
        apart = targets if type(targets) is tuple else (targets,)
        found = None if weigh is None else weigh(preds, *apart)
        if found is not None:
            return found
        return learn.n_items if self.weight.given is None else self.weight.given(learn)

    def join(self, ranks: Ranks) -> None:
        """Add what the other processes have measured, so that all have the numbers of the whole pass."""
        if ranks.size == 1:
            return
        own = {**self.state_dict(), "objects": [own_state(metric) for metric in self.objects]}
        states = ranks.gather(own)
        self.n_batches = sum(each["n_batches"] for each in states)
        self.loss.load_state_dict(interleaved([each["loss"] for each in states]))
        for name, mean in self.means.items():
            mean.load_state_dict(interleaved([each["means"][name] for each in states]))
        used = [each["objects"] for each in states if each["n_batches"]]
        for metric, *found in zip(self.objects, *used, strict=True):
            merge_into(metric, found, self.device)

    def check_merges(self) -> None:
        """Raise an error for a metric whose states of several processes cannot be merged."""
        for name, metric in self.metrics.items():
            if name not in self.functions:
                check_merges(name, metric)
                without_own_sync(metric)

    def compute(self) -> dict[str, Any]:
        """The numbers of the pass by name; waits for the device, once per metric."""
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
        """The sums so far, as plain data; waits for the device."""
        return {
            "metrics": self.descriptions,
            "n_batches": self.n_batches,
            "adds_up": self.adds_up,
            "loss": self.loss.state_dict(),
            "means": {name: mean.state_dict() for name, mean in self.means.items()},
            "objects": [state_of(metric) for metric in self.objects],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        if state["metrics"] != self.descriptions:
            then, now = (", ".join(each) or "none" for each in (state["metrics"], self.descriptions))
            raise ValueError(
                f"Metrics: this {self.prefix} pass was measured by other metrics before (then, now):\n"
                f"  {then}\n  {now}\nContinue with the former metrics; change them after the end of an epoch."
            )
        self.n_batches, self.adds_up = state["n_batches"], state["adds_up"]
        self.loss.load_state_dict(state["loss"])
        for name, mean in self.means.items():
            mean.load_state_dict(state["means"][name])
        for metric, each in zip(self.objects, state["objects"], strict=True):
            put_state(metric, each, self.device)
