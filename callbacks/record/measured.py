"""The loss and the metrics of one pass, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from callbacks.core.contract import Direction, LearnerProtocol
from callbacks.core.definition import snake_case
from callbacks.core.output import with_article
from callbacks.core.ranks import Ranks
from callbacks.core.warning import warn
from callbacks.measures.as_metrics import Metric, check_value, direction_of
from callbacks.measures.as_the_loss import AsTheLoss
from callbacks.measures.joined import detached
from callbacks.measures.linearity import Trial
from callbacks.measures.loss_trial import LossTrial
from callbacks.measures.merging import check_merges, merge_into, own_state, without_own_sync
from callbacks.measures.metric_states import described, put_state, state_of
from callbacks.results.loss_weight import LossWeight, Weight
from callbacks.results.means import Mean, interleaved
from callbacks.results.numbers import as_number
from callbacks.results.reductions import reduction_of


class Measured:
    """The loss and the metrics of one pass."""

    def __init__(
        self, prefix: str, metrics: dict[str, Any], loss_trial: LossTrial, weight: Weight | None = None
    ):
        self.prefix, self.metrics = prefix, metrics
        self.objects = [metric for metric in metrics.values() if isinstance(metric, Metric)]
        self.following = [metric for metric in self.objects if isinstance(metric, AsTheLoss)]
        self.movable = [metric for metric in metrics.values() if hasattr(metric, "to")]
        self.functions = {name: each for name, each in metrics.items() if not isinstance(each, Metric)}
        self.reductions = {name: reduction_of(each) for name, each in self.functions.items()}
        self.weight, self.loss_trial = LossWeight(weight), loss_trial
        self.loss, self.n_batches = Mean(), 0
        self.means = {name: Mean() for name in self.functions}
        self.adds_up = False  # does the loss add up in this pass?
        self.trial = Trial({name: each for name, each in self.functions.items() if not self.knows(name)})
        self.descriptions = [described(name, metric) for name, metric in metrics.items()]
        self.nan_is_reported = False
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
        self.loss_trial.look(learn, self.weight)
        self.trial.start(learn.n_batches)
        if self.objects or self.movable:  # finding the device takes longer than everything else here
            self.device = learn.device
        for metric in self.movable:
            metric.to(self.device)
        for metric in self.following:
            metric.follow(learn.loss_func)
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
        try:
            loss = learn.ranks.loss_here(learn)
            if loss is not None:  # in validation a loss function may return None
                self.loss.add(loss, self.weight.of(learn))
        except (TypeError, RuntimeError):
            check_loss(learn.loss, self.prefix)
            raise
        if loss is not None and self.loss_trial.is_on:
            self.loss_trial.see(learn)
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
        """The weight of the batch in the mean of a function."""
        weigh = self.reductions[name].weigh
        apart = targets if type(targets) is tuple else (targets,)
        found = None if weigh is None else weigh(preds, *apart)
        if found is not None:
            return found
        return learn.n_items if self.weight.given is None else self.weight.given(learn)

    def join(self, ranks: Ranks) -> None:
        """Add the counts of the other processes, so that all processes have the numbers of the whole pass."""
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
            self.nan_is_reported = self.loss_trial.report() or self.nan_is_reported
            if math.isnan(found["loss"]) and not self.nan_is_reported:
                self.nan_is_reported = warn_of_nan(f"{self.prefix}_loss", self.loss)
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


def check_loss(loss: Any, prefix: str) -> None:
    """Raise an error for a loss that is not one number, which only training has checked.

    Raises:
        TypeError, ValueError: shows what the loss is.
    """
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise ValueError(
            f"the loss has shape {tuple(loss.shape)} in a batch of the {prefix} pass, but one number is "
            "needed: reduce it, as in loss.mean(), or pass reduction='mean'. For the loss of each item, call "
            "learn.get_preds(with_loss=True)."
        ) from None
    if not isinstance(loss, (Tensor, SupportsFloat)):
        raise TypeError(
            f"the loss is {with_article(loss)} in a batch of the {prefix} pass: return one scalar tensor, "
            "as in training."
        ) from None


def warn_of_nan(name: str, mean: Mean) -> bool:
    """Warn if a mean is NaN because some batches have NaN; return whether there was a warning."""
    counted = [value for value, weight in zip(*mean.read(), strict=True) if weight]
    bad = [number for number, value in enumerate(counted) if math.isnan(value)]
    if not bad or len(bad) == len(counted):
        return False
    warn(
        f"{name} is NaN because of {len(bad)} of {len(counted)} batches, first batch {bad[0]}: look for NaN "
        "in its inputs and targets. If no target counts in these batches (all are ignored, or all weights "
        "are 0), pass callbacks=[Metrics(weight=function)], where the function returns the denominator of a "
        "batch's loss; batches with 0 are then left out."
    )
    return True
