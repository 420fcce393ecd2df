"""What a batch had to do with an error in the model or the loss: a note that says how to mend it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from learner.checks.cures import item_note, loss_cures, metric_note, norm_note
from learner.checks.loss_checks import (
    CLASSES,
    broadcast,
    classes_last_cure,
    cure_of,
    has_classes_last,
    short,
    title_of,
    torch_loss,
)
from learner.data.tensors import counted, describe
from learner.state.protocol import FullLearner


def batch_note(error: BaseException, frames: list[FrameType], learn: FullLearner) -> str | None:
    """What the model, the loss or a metric received, and what to change; None for errors elsewhere."""
    found = norm_note(error, learn) or metric_note(frames, learn)
    if found is not None:
        return found
    if "compute_loss" in learn.loop.place.operations and learn.loss_func is not None:
        return loss_note(error, learn)
    if "backward" in learn.loop.place.operations:
        return " ".join(dtype_cures(learn)) or None
    if "forward" in learn.loop.place.operations and (note := item_note(learn)):
        return note
    last = frames[-1]
    if last.f_code.co_name == "_forward_unimplemented" and last.f_locals.get("self") is learn.model:
        return forward_note(learn.model)
    if last.f_code.co_name == "_call_impl" and last.f_locals.get("self") is learn.model:
        return call_note(learn)
    return None


def loss_note(error: BaseException, learn: FullLearner) -> str:
    """What the loss function was given."""
    preds, targets = learn.preds, learn.targets
    title = title_of(learn.loss_func)
    given = f"in the loss, {title}, given preds, {describe(preds)}, and targets, {describe(targets)}"
    if type(targets) is tuple:
        given += f", which it is given as {counted(len(targets), 'argument', 'arguments')} after preds"
    cures = list(loss_cures(learn))
    if cures:
        return f"{given}. {' '.join(cures)}"
    if not isinstance(targets, Tensor):
        return (
            f"{given}. The batch was {describe(learn.batch)}: it should be (inputs, targets); with several "
            "inputs pass Data(..., n_inputs=2), for others Data(..., split=function), which gives (inputs, "
            "targets)."
        )
    cures = [*dtype_cures(learn), *class_cures(error, learn), *shape_cures(learn)]
    return f"{given}. {' '.join(cures)}".strip()


def shape_cures(learn: FullLearner) -> Iterator[str]:
    """The line that makes two shapes one, where they cannot even be broadcast."""
    preds, targets = learn.preds, learn.targets
    if torch_loss(learn.loss_func) in CLASSES.values() or not isinstance(preds, Tensor):
        return
    if preds.shape != targets.shape and not broadcast(preds, targets):
        yield cure_of(tuple(preds.shape), tuple(targets.shape))


def dtype_cures(learn: FullLearner) -> Iterator[str]:
    """The cast that makes two dtypes one."""
    preds, targets = learn.preds, learn.targets
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return
    if preds.device != targets.device:
        devices = f"preds are on {preds.device}, targets on {targets.device}"
        yield f"The {devices}: the plug-in DevicePlacement moves both."
    are_classes = targets.dtype == torch.int64 and torch_loss(learn.loss_func) in CLASSES.values()
    if preds.is_floating_point() and targets.dtype != preds.dtype and not are_classes:
        write = "targets.float()" if preds.dtype == torch.float32 else f"targets.to({preds.dtype})"
        yield f"Targets are {short(targets.dtype)}, preds {short(preds.dtype)}: write {write}."


def class_cures(error: BaseException, learn: FullLearner) -> Iterator[str]:
    """A class that the model has no output for, or classes in another dimension."""
    preds, targets = learn.preds, learn.targets
    known = torch_loss(learn.loss_func)
    if known is None or known not in CLASSES.values():
        return
    if isinstance(preds, Tensor) and has_classes_last(preds, targets):
        yield classes_last_cure(preds, targets, known.__name__)
    if not isinstance(error, IndexError):
        return
    if targets.is_cpu and targets.numel() and preds.ndim > 1:
        yield (
            f"The targets reach from {int(targets.min())} to {int(targets.max())}, but preds have "
            f"{preds.shape[1]} classes, counted from 0."
        )


def forward_note(model: Any) -> str:
    """What a model without `forward` lacks, also one of Lightning's."""
    title = type(model).__name__
    step = (
        " What its training_step computes goes there, but the loss."
        if hasattr(model, "training_step")
        else ""
    )
    return (
        f"the learner calls the model: write {title}.forward(inputs), which gives the predictions.{step} The "
        "loss is Learner(..., loss_func=...)."
    )


def call_note(learn: FullLearner) -> str:
    """How the model was called, and how it wants to be."""
    inputs, forward = learn.inputs, getattr(learn.model, "forward", learn.model)
    given = (
        f"by keyword {', '.join(map(str, inputs))}"
        if isinstance(inputs, Mapping)
        else f"{counted(len(inputs), 'input', 'inputs')} in a row"
    )
    return (
        f"the model takes {inspect.signature(forward)} and was given {given}, split off a batch that is "
        f"{describe(learn.batch)}: pass {split_cure(learn, forward)}."
    )


def split_cure(learn: FullLearner, forward: Any) -> str:
    """How the batch is to be split, so that the model gets what it takes."""
    batch = learn.batch
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Mapping):
        return "Data(..., split=lambda batch: batch), so that the mapping goes to the model by keyword"
    if isinstance(batch, Mapping):
        return "Data(..., targets='key') for what the model is not to get"
    n_needed = n_needed_by(forward)
    if isinstance(batch, (tuple, list)) and learn.data.n_inputs != n_needed < len(batch):
        return f"Data(..., n_inputs={n_needed})"
    return (
        "Data(..., n_inputs=2) for the number of inputs, or Data(..., split=function), which gives (inputs, "
        "targets) of a batch"
    )


def n_needed_by(function: Any) -> int:
    """How many arguments in a row it cannot do without."""
    parameters = inspect.signature(function).parameters.values()
    in_a_row = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in in_a_row and each.default is each.empty for each in parameters)
