"""Measure the loss and the metrics of each pass."""

from __future__ import annotations

import copy
from typing import Any, Literal

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.output import listed, print_line
from callbacks.core.ranks import Ranks
from callbacks.core.warning import warn
from callbacks.measures.as_metrics import named_metrics
from callbacks.measures.loss_trial import LossTrial
from callbacks.record.measured import Measured
from callbacks.results.loss_weight import Weight


class Metrics(Callback):
    """Measure the mean loss of each pass and any metrics, and write them to `learn.results`.

    The names are `train_loss` and `valid_loss`; the name of a metric in snake case after its pass, such as
    `valid_rmse`; and `lr`, the rate of the first parameter group at the end of the training pass. Numbers
    stay on the device until the end of the pass.

    A mean loss does not depend on how the data are split into batches: a batch counts by the number that its
    loss divides by. This number is known for torch's own losses, as functions, modules or
    `functools.partial`: the elements of `mse_loss`; the targets of `cross_entropy` that are not ignored, or
    the sum of their class weights. A batch where it is 0 does not count. Losses with `reduction="sum"` are
    added up. A loss that a Hugging Face model computes itself counts by the labels that are not -100, any
    other loss by the number of items, or by `weight`. The same holds for metrics that are functions. If the
    loss function returns None in validation, as for a model that has losses only in training mode, no
    validation loss is measured.

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
        ValueError: two metrics have the same name, or `weight` is not a function.
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
        self.metrics, self.on, self.weight = metrics, on, weight
        by_name = named_metrics(metrics)
        self._has_reported = False  # that there is no validation data
        self._results: dict[str, Any] = {}  # of the current validation
        self._around: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of the validations around it
        on_valid = copy.deepcopy(by_name) if on == "both" else by_name if on == "valid" else {}
        trial = LossTrial()
        self._passes = {
            "train": Measured("train", by_name if on != "valid" else {}, trial, weight),
            "valid": Measured("valid", on_valid, trial, weight),
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
        self._report_unmeasured(learn)

    def _report_unmeasured(self, learn: LearnerProtocol) -> None:
        """Print once that metrics are not measured, because there is no validation data."""
        names = [] if learn.data.validations or self.on == "both" else list(self._passes["valid"].metrics)
        if names and not self._has_reported and any(each.shows_progress for each in learn.callbacks):
            self._has_reported = True
            print_line(
                f"there is no validation data, so {listed(names)} will not be measured: pass "
                "Data(train, valid), or callbacks=[Metrics(..., on='train')]"
            )

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
            learn.results.update(self._passes["train"].compute())
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
        if valid.is_open:
            valid.join(learn.ranks)
        if valid.is_open:
            learn.results.update(valid.compute())
        if valid.n_batches and not valid.loss.n_batches:  # the loss function returned None
            missing = f"{learn.pass_name}_loss"
            self.measures = {name: each for name, each in self.measures.items() if name != missing}
