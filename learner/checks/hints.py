"""How to fix common errors: batch norm on one item, metrics of several outputs, gradients in validation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import Tensor

from callbacks.measures.as_metrics import Metric
from callbacks.record.measured import Measured
from callbacks.record.metrics import Metrics
from learner.checks.data_checks import n_items_of, n_left_over, sizes_of
from learner.checks.loss_checks import torch_loss
from learner.data.tensors import describe
from learner.messages.keywords import takes
from learner.state.protocol import FullLearner

#: torch's message if batch norm gets one value per channel.
ONE_VALUE = "Expected more than 1 value per channel when training"
#: torch's message if there is no graph to differentiate.
NO_GRADIENT = "does not require grad and does not have a grad_fn"


def norm_note(error: BaseException, learn: FullLearner) -> str | None:
    """How to avoid a batch that is too small for batch norm."""
    if ONE_VALUE not in str(error) or not learn.training:
        return None
    loader = learn.data.train
    if n_left_over(loader) == 1:
        return (
            f"{why_one_is_left(loader)}, and batch norm cannot normalize one item: {drop_last_hint(loader)}"
        )
    return (
        "batch norm cannot normalize a batch of one item: use a larger batch_size, leave a last batch of one "
        "out with drop_last=True, or replace the layer with nn.GroupNorm or nn.LayerNorm."
    )


def gradient_note(error: BaseException, learn: FullLearner) -> str | None:
    """How a model or a loss can differentiate in validation and prediction."""
    if learn.training or NO_GRADIENT not in str(error):
        return None
    return (
        "validation and prediction run without gradients: where the model or the loss differentiates, write "
        "`with torch.enable_grad():` around the code from inputs.requires_grad_() on."
    )


def why_one_is_left(loader: Any) -> str:
    """`33 items in batches of 8 leave 1 for the last batch`."""
    sizes, n_items = sizes_of(loader), n_items_of(loader)
    if n_items is None or sizes.get("batch_size") is None:
        return "the last batch has 1 item"
    return f"{n_items} items in batches of {sizes['batch_size']} leave 1 for the last batch"


def drop_last_hint(loader: Any) -> str:
    """How to train without a last batch of one item."""
    if isinstance(loader, (list, tuple)):
        return "leave it out, or join it with the batch before it."
    size = sizes_of(loader).get("batch_size")
    other = f" other than {size}" if size else ""
    return f"pass drop_last=True to the loader, or a batch_size{other}."


def metric_note(frames: list[FrameType], learn: FullLearner) -> str | None:
    """How to use a metric that takes one output and one target where there are several."""
    preds, targets = learn.preds, learn.targets
    preds = getattr(preds, "logits", preds)
    found = failed_metric(frames, learn)
    if found is None or (isinstance(preds, Tensor) and isinstance(targets, Tensor)):
        return None
    given = (
        f"the metric received preds, {describe(preds)}, and targets, {describe(targets)}. Choose what it "
        "compares"
    )
    ours, theirs = (f"{word}{part_of(item)}" for word, item in (("preds", preds), ("targets", targets)))
    if isinstance(found, Metric):
        title = type(found).__name__
        return (
            f"{given}, in your own class, and pass that: class My{title}({title}): def update(self, "
            f"preds, targets): super().update({ours}, {theirs})"
        )
    title = getattr(found, "__name__", "metric").strip("<>")
    return f"{given}: def my_{title}(preds, targets): return {title}({ours}, {theirs})"


def part_of(item: Any) -> str:
    """The code that selects the first part: `[0]`, `['boxes']`; empty for a tensor."""
    if isinstance(item, (tuple, list)):
        return "[0]"
    if hasattr(item, "keys"):
        return f"[{next(iter(item), 'name')!r}]"
    return "" if isinstance(item, Tensor) or item is None else ".part"


def failed_metric(frames: list[FrameType], learn: FullLearner) -> Any:
    """The metric that raised the error, as it was passed; None if no metric did."""
    if not any(isinstance(frame.f_locals.get("self"), Metrics) for frame in frames):
        return None
    given = [inspect.unwrap(each) if callable(each) else each for each in learn.metrics]
    for frame in frames:
        owner = frame.f_locals.get("self")
        for each in given:
            if frame.f_code is getattr(each, "__code__", 0) or type(owner) is getattr(each, "metric", 0):
                return each
        if isinstance(owner, Metric) and not isinstance(owner, Measured):
            return owner
    return None


def loss_hints(learn: FullLearner) -> Iterator[str]:
    """How to fix what the loss cannot use: its number of arguments, outputs that are not a tensor."""
    loss_func, targets = learn.loss_func, learn.targets
    yield from output_hints(learn)
    if targets is None and takes(loss_func, None) and not takes(loss_func, None, None):
        yield (
            "The loss function takes one argument, but is called with preds and targets (None if a batch "
            "has no targets): write lambda preds, targets: loss(preds)."
        )
    is_tuple = isinstance(targets, tuple) and not takes(loss_func, None, *targets)
    if is_tuple and takes(loss_func, None, None):
        yield (
            "Each entry of a tuple of targets is passed to the loss function as an argument, but it "
            "takes only one. If the tuple has one entry per item, make it a list, as in Data(..., "
            "split=lambda batch: (batch[0], list(batch[1])))."
        )
    if not learn.training and not isinstance(learn.preds, Tensor):
        yield (
            "This is validation, where the model is in evaluation mode. Some models, for example of "
            "detection, compute their losses in training mode only, and return predictions here. For "
            "such a model, return None from the loss function in validation; valid_loss is then not "
            "measured: def loss(preds, targets): return sum(preds.values()) if isinstance(preds, dict) "
            "else None"
        )


def output_hints(learn: FullLearner) -> Iterator[str]:
    """How to pass one tensor of the model's output to a loss of torch."""
    preds, known = learn.preds, torch_loss(learn.loss_func)
    if preds is None:
        yield "The model returns None: does its forward end with `return`?"
    elif known is not None and not isinstance(preds, Tensor) and isinstance(learn.targets, Tensor):
        yield (
            "The loss takes a tensor: choose one in a function, as in "
            f"lambda preds, targets: {known.__name__}(preds{part_of(preds)}, targets)."
        )
