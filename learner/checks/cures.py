"""What to change after common errors: batch norm on one item, metrics of several outputs, single items."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import Tensor

from callbacks.measures.as_metrics import Metric
from callbacks.record.metrics import Metrics
from learner.checks.data_checks import n_left_over, sizes_of
from learner.data.data import InputsOnly
from learner.data.tensors import describe
from learner.state.protocol import FullLearner

#: What torch says if batch norm gets one value per channel.
ONE_VALUE = "Expected more than 1 value per channel when training"


def norm_note(error: BaseException, learn: FullLearner) -> str | None:
    """What to do with a batch from which batch norm cannot take statistics."""
    if ONE_VALUE not in str(error) or not learn.training:
        return None
    loader = learn.data.train
    if n_left_over(loader) == 1:
        return f"{why_one_is_left(loader)}, and batch norm cannot normalize one item: {drop_cure(loader)}"
    return (
        "batch norm cannot normalize a batch of one item: use a larger batch_size, leave a last batch of one "
        "out with drop_last=True, or replace the layer with nn.GroupNorm or nn.LayerNorm."
    )


def why_one_is_left(loader: Any) -> str:
    """`33 items in batches of 8 leave 1 for the last batch`."""
    sizes = sizes_of(loader)
    n_items = sizes.get("n_items", sizes.get("len(dataset)"))
    if n_items is None or sizes.get("batch_size") is None:
        return "the last batch has 1 item"
    return f"{n_items} items in batches of {sizes['batch_size']} leave 1 for the last batch"


def drop_cure(loader: Any) -> str:
    """How to train without a last batch of one."""
    if isinstance(loader, (list, tuple)):
        return "leave it out, or join it with the batch before."
    size = sizes_of(loader).get("batch_size")
    other = f" other than {size}" if size else ""
    return f"pass drop_last=True where the batches are made, or a batch_size{other}."


def metric_note(frames: list[FrameType], learn: FullLearner) -> str | None:
    """How to use a metric of one output and one target if there are several."""
    preds, targets = learn.preds, learn.targets
    preds = getattr(preds, "logits", preds)
    found = failed_metric(frames, learn)
    if found is None or (isinstance(preds, Tensor) and isinstance(targets, Tensor)):
        return None
    given = (
        f"the metric was given preds, {describe(preds)}, and targets, {describe(targets)}. Choose what it "
        "compares"
    )
    ours, theirs = (f"{word}{part_of(item)}" for word, item in (("preds", preds), ("targets", targets)))
    if isinstance(found, Metric):
        title = type(found).__name__
        return (
            f"{given}, in a class of your own, and pass that: class My{title}({title}): def update(self, "
            f"preds, targets): super().update({ours}, {theirs})"
        )
    title = getattr(found, "__name__", "metric").strip("<>")
    return f"{given}: def my_{title}(preds, targets): return {title}({ours}, {theirs})"


def part_of(item: Any) -> str:
    """How to select the first part: `[0]`, `['boxes']`; empty for a tensor."""
    if isinstance(item, (tuple, list)):
        return "[0]"
    if hasattr(item, "keys"):
        return f"[{next(iter(item), 'name')!r}]"
    return "" if isinstance(item, Tensor) or item is None else ".part"


def failed_metric(frames: list[FrameType], learn: FullLearner) -> Any:
    """The metric that raised an error, as it was passed; None if no metric did."""
    if not any(isinstance(frame.f_locals.get("self"), Metrics) for frame in frames):
        return None
    given = [inspect.unwrap(each) if callable(each) else each for each in learn.metrics]
    for frame in frames:
        owner = frame.f_locals.get("self")
        for each in given:
            if frame.f_code is getattr(each, "__code__", 0) or type(owner) is getattr(each, "metric", 0):
                return each
        if isinstance(owner, Metric) and type(owner).__module__ != Metrics.__module__:
            return owner
    return None


def item_note(learn: FullLearner) -> str | None:
    """Say that `predict` takes a batch, if it probably got one item."""
    if learn.loop.place.span != "predict" or not isinstance(learn.batch, InputsOnly):
        return None
    inputs = learn.batch.inputs
    if not isinstance(inputs, tuple) or len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        return None
    given, known = inputs[0], first_column(learn.data.train)
    cure = "for one item pass x[None], and take [0] of what predict returns"
    if known is None:
        return f"predict takes a batch of shape (items, ...): {cure}."
    if given.ndim != known.ndim - 1:
        return None
    shape = ", ".join(map(str, known.shape[1:]))
    return (
        f"predict takes a batch of shape (items, {shape}), as the training data has, and was given "
        f"{tuple(given.shape)}: {cure}."
    )


def first_column(loader: Any) -> Any:
    """The inputs of all items, or of the first batch, where the data is in memory; None elsewhere."""
    tensors = getattr(loader, "tensors", None) or getattr(getattr(loader, "dataset", None), "tensors", None)
    if tensors is None and isinstance(loader, list) and loader and isinstance(loader[0], (tuple, list)):
        tensors = loader[0]
    first: Any = tensors[0] if tensors else None
    return first if getattr(first, "ndim", 0) else None


def loss_cures(learn: FullLearner) -> Iterator[str]:
    """What to do with a loss function of one argument, and with outputs that differ in evaluation mode."""
    if learn.targets is None and takes(learn.loss_func, 1) and not takes(learn.loss_func, 2):
        yield (
            "The loss function takes one argument, and is called with preds and targets (None where a batch "
            "has none): write lambda preds, targets: loss(preds)."
        )
    targets = learn.targets
    is_tuple = isinstance(targets, tuple) and not takes(learn.loss_func, 1 + len(targets))
    if is_tuple and takes(learn.loss_func, 2):
        yield (
            "A tuple of targets means several, each an argument of the loss function, which takes one: where "
            "it has one entry per item, make it a list, as in Data(..., split=lambda batch: (batch[0], "
            "list(batch[1])))."
        )
    if not learn.training and not isinstance(learn.preds, Tensor):
        yield (
            "This is validation, where the model is in evaluation mode. A model that computes its losses in "
            "training mode only, as those for detection, returns predictions here: return None from the loss "
            "function for them, and no valid_loss is measured: def loss(preds, targets): return "
            "sum(preds.values()) if isinstance(preds, dict) else None"
        )


def takes(function: Any, n: int) -> bool:
    """Can it be called with so many positional arguments? True if its signature is unknown."""
    try:
        inspect.signature(function).bind(*[None] * n)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
