"""Losses that expect another form of the model's output: scores, probabilities or their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.measures.as_metrics import as_metric, metric_name
from callbacks.measures.as_the_loss import AsTheLoss
from callbacks.measures.linearity import is_pure
from callbacks.measures.whole_pass import WholePass
from callbacks.results import reductions
from callbacks.results.reductions import unwrapped
from learner.checks.loss_checks import broadcast, is_suspicious, title_of, torch_loss
from learner.checks.probe import compares_each_with_each
from learner.messages.problems import LearnerWarning
from learner.state.protocol import FullLearner

#: Operations that only rearrange or convert numbers, as torch's graph names them.
SAME_NUMBERS = {
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Transpose"),
    *("Permute", "T", "Clone", "ToCopy", "Alias"),
}
SCORES = ("Addmm", "Mm", "Bmm", "Convolution")
#: The functions of torch that a model should not end with, and what they return.
SAYS = {
    "Softmax": ("softmax", "probabilities (softmax)"),
    "LogSoftmax": ("log_softmax", "log-probabilities (log_softmax)"),
    "Sigmoid": ("sigmoid", "probabilities (sigmoid)"),
    "Relu": ("relu", "numbers that are never negative (relu)"),
}
LOG_PROBABILITIES = "log-probabilities: end the model with nn.LogSoftmax(1)"

#: For each loss: the last operations of a model that it does not expect, and what it takes. Log-probabilities
#: are also scores for `cross_entropy`, and it can be meant that scores are never negative.
EXPECTS: dict[Any, tuple[tuple[str, ...], str]] = {
    F.cross_entropy: (
        ("Softmax", "Sigmoid"),
        "scores, and applies log_softmax to them: leave the {last} out, or, if an item may have several "
        "classes, use binary_cross_entropy",
    ),
    F.binary_cross_entropy_with_logits: (
        ("Sigmoid", "Softmax", "LogSoftmax", "Relu"),
        "scores, and applies a sigmoid to them: leave the {last} out, or use binary_cross_entropy, which "
        "takes probabilities",
    ),
    F.nll_loss: (
        (*SCORES, "Softmax", "Sigmoid", "Relu"),
        f"{LOG_PROBABILITIES}, or use cross_entropy, which takes scores",
    ),
    F.kl_div: ((*SCORES, "Softmax", "Sigmoid", "Relu"), LOG_PROBABILITIES),
}


def output_problems(learn: FullLearner, preds: Any, loss_func: Any) -> Iterator[Exception]:
    """A loss of torch that takes the model's output for something else, without an error.

    The last operation is read from the graph, so nothing waits for the device.
    """
    expected = EXPECTS.get(torch_loss(loss_func))
    last = last_operation(preds)
    if expected is None or last not in expected[0]:
        return
    title = title_of(loss_func)
    known = f"{title} of {last}"
    if known not in learn.reported:
        learn.reported.add(known)
        function, says = SAYS.get(last, ("", "scores"))
        takes = expected[1].format(last=function)
        yield LearnerWarning(f"the model returns {says}, but {title} takes {takes}.")


def metric_problems(learn: FullLearner) -> Iterator[Exception]:
    """Metrics that take probabilities for logits, which only a loss of torch would show them."""
    preds, targets = learn.preds, learn.targets
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor) or preds.shape != targets.shape:
        return
    if reductions.name_of(unwrapped(learn.loss_func)[0]) is not None or last_operation(preds) != "Sigmoid":
        return
    names = [metric_name(each) for each in learn.metrics if isinstance(as_metric(each), AsTheLoss)]
    if names and "metrics of probabilities" not in learn.reported:
        learn.reported.add("metrics of probabilities")
        yield LearnerWarning(
            f"the model returns probabilities (sigmoid), and {', '.join(names)} cannot know it from a loss "
            "of your own, so every number above 0 counts as a prediction of 1. Pass a metric that expects "
            "probabilities, such as a function that returns accuracy(preds - 0.5, targets)."
        )


def metric_shape_problems(learn: FullLearner) -> Iterator[Exception]:
    """Metrics of the user that compare each prediction with each target, as losses are checked for it."""
    preds, targets = learn.preds, learn.targets
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor) or not is_suspicious(preds, targets):
        return
    for function in map(function_of, learn.metrics):
        if function is None or f"shapes of {id(function)}" in learn.reported or not is_pure(function):
            continue
        learn.reported.add(f"shapes of {id(function)}")
        if compares_each_with_each(partial(as_tensor, function), preds, targets):
            yield LearnerWarning(
                f"the metric {metric_name(function)} broadcasts preds of shape {tuple(preds.shape)} and "
                f"targets of shape {tuple(targets.shape)} to {broadcast(preds, targets)}, so it compares "
                "each prediction with the targets of other items: write preds = "
                "preds.reshape(targets.shape) at its start."
            )


def function_of(metric: Any) -> Callable[..., Any] | None:
    """The function of predictions and targets that a metric calls; None for an object with counts."""
    made = as_metric(metric)
    if isinstance(made, WholePass):
        return None if made.targets_first else made.function
    return None if hasattr(made, "compute") else made


def as_tensor(function: Callable[..., Any], preds: Tensor, targets: Tensor) -> Tensor:
    """The value of a metric, which may be a plain number."""
    return torch.as_tensor(function(preds, targets))


def last_operation(preds: Any) -> str | None:
    """What computed the predictions, as torch's graph names it; None if that is not known.

    A softmax over another dimension than that of the classes is not reported.
    """
    node: Any = preds.grad_fn if isinstance(preds, Tensor) else None
    name, is_moved = name_of(node), False
    while name in SAME_NUMBERS:
        is_moved = is_moved or name not in ("ToCopy", "Clone", "Alias")
        node = node.next_functions[0][0] if node.next_functions else None
        name = name_of(node)
    if name == "Softmax" and node is not None:
        dim = int(node._saved_dim)
        dim = dim - (1 << 64) if dim >= 1 << 63 else dim  # torch keeps it without a sign
        is_of_classes = not is_moved and dim % preds.ndim == min(1, preds.ndim - 1)
        return name if is_of_classes else None
    return name


def name_of(node: Any) -> str | None:
    """`Softmax` of a node that is called `SoftmaxBackward0`."""
    return None if node is None else node.name().rstrip("0123456789").removesuffix("Backward")
