"""Measure: the losses of each pass, and metrics."""

from __future__ import annotations

import copy
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from operator import mul
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from callbacks.contract import Callback, Direction, LearnerProtocol, LearnerWarning, Order, snake_case
from callbacks.scalars import Scalars


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
            mean.
        on: the passes in which metrics are measured; losses are measured in both always.

    Raises:
        TypeError: something is no metric.
        ValueError: two metrics have one name.
    """

    order = Order.MEASURE

    def __init__(
        self, *metrics: Any, on: Literal["valid", "train", "both"] = "valid", name: str | None = None
    ):
        super().__init__(name=name)
        if on not in ("valid", "train", "both"):
            raise ValueError(f"Metrics(on={on!r}): there are 'valid', 'train' and 'both'.")
        self.metrics, self.on = metrics, on
        by_name = named_metrics(metrics)
        nothing: dict[str, Metric] = {}
        self._passes = {
            "train": Measured("train", copy.deepcopy(by_name) if on != "valid" else nothing),
            "valid": Measured("valid", by_name if on != "train" else nothing),
        }

    def before_fit(self, learn: LearnerProtocol) -> None:
        passes = ("train",) if learn.data.valid is None else ("train", "valid")
        self.measures = {name: better for each in passes for name, better in self._passes[each].names()}

    def before_train(self, learn: LearnerProtocol) -> None:
        self._passes["train"].reset(learn.device)

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._passes["valid"].reset(learn.device)

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._passes["train" if learn.training else "valid"].update(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        learn.results |= self._passes["train"].compute()
        learn.results["lr"] = float(learn.optimizer.param_groups[0]["lr"])

    def after_validate(self, learn: LearnerProtocol) -> None:
        if learn.stop_reason and learn.batch_idx + 1 != learn.n_batches:
            return  # stopped in the middle: numbers of a part would be taken for the whole
        if not self._passes["valid"].n_items and learn.n_batches is None:
            warnings.warn(
                "the validation data gave no batch, so nothing was measured on it.",
                LearnerWarning,
                stacklevel=2,
            )
        learn.results |= self._passes["valid"].compute()


class Measured:
    """The loss and the metrics of one pass."""

    def __init__(self, prefix: str, metrics: dict[str, Metric]):
        self.prefix, self.metrics = prefix, metrics
        self.losses, self.n_items = Scalars(), array("d")

    def names(self) -> list[tuple[str, Direction | None]]:
        """The results' names, each with its better direction."""
        metrics = [(name, direction_of(metric)) for name, metric in self.metrics.items()]
        return [(f"{self.prefix}_{name}", better) for name, better in [("loss", "min"), *metrics]]

    def reset(self, device: torch.device) -> None:
        """Begin a pass on this device."""
        self.losses.clear()
        self.n_items = array("d")
        for metric in self.metrics.values():
            metric.reset()
            if hasattr(metric, "to"):
                metric.to(device)  # type: ignore[attr-defined]

    def update(self, learn: LearnerProtocol) -> None:
        """See the batch under way."""
        self.losses.append(learn.loss)
        self.n_items.append(learn.n_items)
        if self.metrics:
            preds = detached_preds(learn.preds)
            for metric in self.metrics.values():
                metric.update(preds, learn.targets)

    def compute(self) -> dict[str, Any]:
        """The pass's numbers by name; waits for the device, once a metric."""
        if not self.n_items:
            return {}
        found: dict[str, Any] = {"loss": weighted_mean(self.losses.read(), self.n_items)}
        for name, metric in self.metrics.items():
            value = metric.compute()
            parts = value if isinstance(value, Mapping) else {name: value}
            found |= {snake_case(key): as_number(part) for key, part in parts.items()}
        return {f"{self.prefix}_{name}": value for name, value in found.items()}


class Average:
    """A function of `(preds, targets)` as a metric: its batches' values, averaged by number of items."""

    def __init__(self, function: Callable[[Any, Any], Any]):
        self.function = function
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self.reset()

    def reset(self) -> None:
        self.values, self.n_items = Scalars(), array("d")

    def update(self, preds: Any, targets: Any) -> None:
        self.values.append(self.function(preds, targets))
        first = targets[0] if isinstance(targets, tuple) else targets
        self.n_items.append(len(first if isinstance(first, Tensor) and first.ndim else preds))

    def compute(self) -> float:
        return weighted_mean(self.values.read(), self.n_items)


class SquaredErrors:
    """What `MSE`, `RMSE` and `R2` add up: sums over items, for each output, in float64 where the device "
    "has it."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.n_items = 0
        self.shift: Any = (
            0.0  # a first guess of the targets' mean, so that small variances are not rounded away
        )
        self.squares: Any = 0.0
        self.sums: Any = 0.0
        self.square_sums: Any = 0.0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape(type(self).__name__, preds, targets)
        if self.n_items == 0:
            self.shift = targets.mean(0)
        self.n_items += len(targets)
        self.squares = self.squares + (preds - targets).square().sum(0)
        self.sums = self.sums + (targets - self.shift).sum(0)
        self.square_sums = self.square_sums + (targets - self.shift).square().sum(0)


class MSE(SquaredErrors):
    """Mean of the squared errors over all items and outputs; preds and targets of one shape."""

    def compute(self) -> Any:
        return (self.squares / self.n_items).mean()


class RMSE(MSE):
    """Root of the mean of the squared errors over all items of the pass; not the mean of the batches' "
    "roots."""

    def compute(self) -> Any:
        return super().compute().sqrt()


class R2(SquaredErrors):
    """Coefficient of determination, 1 - residual / total sum of squares; of several outputs the plain mean.

    Raises:
        ValueError: fewer than two items were seen.
    """

    higher_is_better = True

    def compute(self) -> Any:
        if self.n_items < 2:
            raise ValueError(f"R2 needs at least two items, but the pass had {self.n_items}.")
        total = self.square_sums - self.sums.square() / self.n_items
        return (1 - self.squares / total).mean()


class MAE:
    """Mean of the absolute errors over all items and outputs; preds and targets of one shape."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.total: Any = 0.0
        self.count = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        preds, targets = same_shape("MAE", preds, targets)
        self.total = self.total + (preds - targets).abs().sum()
        self.count += targets.numel()

    def compute(self) -> Any:
        return self.total / self.count


def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    """Share of items that are classed rightly.

    Args:
        preds: scores of shape (items, classes, ...) for class numbers as targets; or logits of the shape of
            `targets` for yes or no, where above 0 is yes.
        targets: class numbers of shape (items, ...), or 0 and 1.

    Raises:
        ValueError: the shapes fit neither.
    """
    if preds.shape == targets.shape:
        return ((preds > 0) == targets.bool()).float().mean()
    if preds.shape[:1] + preds.shape[2:] == targets.shape:
        return (preds.argmax(1) == targets).float().mean()
    raise ValueError(
        f"accuracy: preds of shape {tuple(preds.shape)} against targets of shape {tuple(targets.shape)}. "
        f"Give scores of shape "
        "(items, classes) for class numbers of shape (items,), or logits of the targets' own shape for yes "
        "or no."
    )


accuracy.higher_is_better = True  # type: ignore[attr-defined]


def named_metrics(metrics: tuple[Any, ...]) -> dict[str, Metric]:
    """Each metric under its name in snake case; functions become averages, classes without arguments "
    "instances."""
    names = [metric_name(metric) for metric in metrics]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{count} metrics are called {name!r}: give one a `name` attribute of its own.")
    return {name: as_metric(metric) for name, metric in zip(names, metrics, strict=True)}


def metric_name(metric: Any) -> str:
    """The name it gives itself, or its function's or class's, in snake case."""
    function = getattr(metric, "func", metric)  # of a functools.partial
    name = getattr(metric, "name", None) or getattr(function, "__name__", type(metric).__name__)
    if not str(name).isidentifier():
        raise TypeError(
            f"the metric {metric!r} has no name to record it under: write it as a function with def."
        )
    return snake_case(str(name))


def as_metric(metric: Any) -> Metric:
    """The metric that was meant.

    Raises:
        TypeError: it has no `update` and `compute`, and is no function of preds and targets.
    """
    if isinstance(metric, type) and isinstance(metric, Metric):
        return metric()
    if isinstance(metric, Metric):
        return metric
    if callable(metric) and not isinstance(metric, type):
        return Average(metric)
    raise TypeError(
        f"metrics: {metric!r} is no metric: pass a function of (preds, targets), or an object with reset, "
        f"update and compute."
    )


def direction_of(metric: Metric) -> Direction | None:
    """Which way is better, where the metric tells."""
    higher: bool | None = getattr(metric, "higher_is_better", None)
    return None if higher is None else ("max" if higher else "min")


def detached_preds(preds: Any) -> Any:
    """What metrics look at: the output, or its `logits` where it has such, without its graph."""
    preds = getattr(preds, "logits", preds)
    return preds.detach() if isinstance(preds, Tensor) else preds


def same_shape(title: str, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 (float32 on mps, which has no other), refused where their shapes differ."""
    if preds.shape != targets.shape:
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)} against targets of shape {tuple(targets.shape)} "
            f"would be compared each with "
            f"each. Give both one shape: return preds.squeeze(-1) from the model, or use "
            f"targets.unsqueeze(-1)."
        )
    dtype = torch.float32 if preds.device.type == "mps" else torch.float64
    return preds.to(dtype), targets.to(dtype)


def weighted_mean(values: array[float], weights: array[float]) -> float:
    """Mean of values that count by their weights."""
    return sum(map(mul, values, weights)) / sum(weights)


def as_number(value: Any) -> Any:
    """A number, or a list of them, off the device."""
    return value.tolist() if isinstance(value, Tensor) else value
