"""Notes on an error in the model, the loss or a metric: what it received, and how to fix that."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from learner.checks.hints import gradient_note, loss_hints, metric_note, norm_note
from learner.checks.loss_checks import (
    CLASSES,
    broadcast,
    classes_last_hint,
    has_classes_last,
    reshape_hint,
    title_of,
    torch_loss,
)
from learner.data.items import InputsOnly
from learner.data.tensors import counted, describe
from learner.messages.layers import short
from learner.state.protocol import FullLearner


def batch_note(error: BaseException, frames: list[FrameType], learn: FullLearner) -> str | None:
    """What the model, the loss or a metric received, and what to change; None for other errors."""
    found = norm_note(error, learn) or metric_note(frames, learn) or gradient_note(error, learn)
    if found is not None:
        return found
    if "compute_loss" in learn.loop.place.operations and learn.loss_func is not None:
        return loss_note(error, learn)
    if "backward" in learn.loop.place.operations:
        return " ".join(dtype_hints(error, learn)) or None
    last = frames[-1]
    if last.f_code.co_name == "_forward_unimplemented" and last.f_locals.get("self") is learn.model:
        return forward_note(learn.model)
    if last.f_code.co_name == "_call_impl" and last.f_locals.get("self") is learn.model:
        return call_note(learn)
    return mapping_note(learn)


def mapping_note(learn: FullLearner) -> str | None:
    """How to pass a mapping by keyword, if the model received it as its only argument; None otherwise."""
    inputs, forward = learn.inputs, getattr(learn.model, "forward", learn.model)
    if not (type(inputs) is tuple and len(inputs) == 1 and isinstance(inputs[0], Mapping)):
        return None
    try:
        inspect.signature(forward).bind(**inputs[0])
    except (TypeError, ValueError):
        return None
    return call_note(learn)


def loss_note(error: BaseException, learn: FullLearner) -> str:
    """What the loss function received, and how to fix it."""
    preds, targets = learn.preds, learn.targets
    title = title_of(learn.loss_func)
    given = f"in the loss, {title}, given preds, {describe(preds)}, and targets, {describe(targets)}"
    if type(targets) is tuple:
        given += f", which are passed as {counted(len(targets), 'argument', 'arguments')} after preds"
    hints = list(loss_hints(learn))
    if hints:
        return f"{given}. {' '.join(hints)}"
    if not isinstance(targets, Tensor):
        return (
            f"{given}. The batch was {describe(learn.batch)}: it should be (inputs, targets). For several "
            "inputs, pass Data(..., n_inputs=2); for any other form, pass Data(..., split=function), "
            "where the function returns (inputs, targets)."
        )
    hints = [*dtype_hints(error, learn), *class_hints(error, learn), *shape_hints(learn)]
    return f"{given}. {' '.join(hints)}".strip()


def shape_hints(learn: FullLearner) -> Iterator[str]:
    """How to make two shapes equal that cannot even be broadcast."""
    preds, targets = learn.preds, learn.targets
    if torch_loss(learn.loss_func) in CLASSES or not isinstance(preds, Tensor):
        return
    if preds.shape != targets.shape and not broadcast(preds, targets):
        yield reshape_hint(tuple(preds.shape), tuple(targets.shape))
        if not targets.is_floating_point() and tuple(targets.shape) == (*preds.shape[:1], *preds.shape[2:]):
            yield "If the targets are classes, use cross_entropy as loss."


def dtype_hints(error: BaseException, learn: FullLearner) -> Iterator[str]:
    """How to make the devices or the dtypes of predictions and targets equal."""
    preds, targets = learn.preds, learn.targets
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return
    if preds.device != targets.device:
        devices = f"preds are on {preds.device}, targets on {targets.device}"
        yield f"The {devices}: the callback DevicePlacement moves both."
    are_classes = targets.dtype == torch.int64 and torch_loss(learn.loss_func) in CLASSES
    takes_classes = "Long" in str(error) and targets.dtype != torch.int64
    differ = preds.is_floating_point() and targets.dtype != preds.dtype and not are_classes
    if differ or takes_classes:
        write = "targets.float()" if preds.dtype == torch.float32 else f"targets.to({preds.dtype})"
        write = "targets.long()" if takes_classes else write
        yield f"Targets are {short(targets.dtype)}, preds {short(preds.dtype)}: write {write}."


def class_hints(error: BaseException, learn: FullLearner) -> Iterator[str]:
    """Hints on a class that the model has no output for, and on classes in the wrong dimension."""
    preds, targets = learn.preds, learn.targets
    known = torch_loss(learn.loss_func)
    if known is None or known not in CLASSES:
        return
    if isinstance(preds, Tensor) and has_classes_last(preds, targets):
        yield classes_last_hint(preds, targets, known.__name__)
    if not isinstance(error, IndexError):
        return
    if targets.is_cpu and targets.numel() and preds.ndim > 1:
        yield (
            f"The targets range from {int(targets.min())} to {int(targets.max())}, but preds have "
            f"{preds.shape[1]} classes, counted from 0."
        )


def forward_note(model: Any) -> str:
    """What to write in a model without `forward`, such as a module of Lightning."""
    title = type(model).__name__
    move = " Move what its training_step computes there, except the loss."
    step = move if hasattr(model, "training_step") else ""
    return (
        f"the learner calls the model: write {title}.forward(inputs), which returns the predictions.{step} "
        "Pass the loss as Learner(..., loss_func=...)."
    )


def call_note(learn: FullLearner) -> str:
    """How the model was called, and how to pass what it takes."""
    inputs, forward = learn.inputs, getattr(learn.model, "forward", learn.model)
    given = counted(len(inputs), "positional argument", "positional arguments")
    if isinstance(inputs, Mapping):
        given = f"by keyword {', '.join(map(str, inputs))}"
    received = f"the model takes {inspect.signature(forward)} and received {given}"
    if isinstance(learn.batch, InputsOnly):  # from `predict`, which splits nothing
        return f"{received}: pass its inputs in a tuple, or by keyword in a mapping."
    return f"{received}, from the batch {describe(learn.batch)}: pass {split_hint(learn, forward)}."


def split_hint(learn: FullLearner, forward: Any) -> str:
    """How to split the batch, so that the model gets what it takes."""
    batch = learn.batch
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Mapping):
        return "Data(..., split=lambda batch: batch), so that the mapping goes to the model by keyword"
    if isinstance(batch, Mapping):
        return "Data(..., targets='key') to keep an entry from the model"
    n_needed = n_needed_by(forward)
    if isinstance(batch, (tuple, list)) and learn.data.n_inputs != n_needed < len(batch):
        return f"Data(..., n_inputs={n_needed})"
    return (
        "Data(..., n_inputs=2) for the number of inputs, or Data(..., split=function), where the function "
        "takes a batch and returns (inputs, targets)"
    )


def n_needed_by(function: Any) -> int:
    """The number of positional arguments that a function requires."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters)
