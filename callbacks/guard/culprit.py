"""Find what became NaN or infinite first in a batch whose loss is bad."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import LearnerProtocol
from callbacks.core.draws import undrawn
from callbacks.core.registry import run_forward
from callbacks.guard.last_good import tensors_of
from callbacks.model.finite import first_bad, is_finite
from callbacks.model.shards import are_in
from callbacks.place.device import tensors_in
from callbacks.place.hooks import Hooks
from callbacks.results.loss_weight import LossWeight


def cause_of(learn: LearnerProtocol, buffers: dict[str, Tensor] | None = None) -> str:
    """Describe what went bad first in the batch: inputs, targets, weights, a layer's output or the loss.

    The layer is found by running the forward pass again. Random state and predictions are restored; the
    caller restores the buffers. `buffers` are as they were before the forward pass.
    """
    try:
        return in_words(learn, buffers)
    except Exception as error:  # noqa: BLE001 - must not hide the original error
        return f"the cause could not be determined ({type(error).__name__}: {error})"


def in_words(learn: LearnerProtocol, buffers: dict[str, Tensor] | None) -> str:
    """`cause_of`, which may fail on unusual data."""
    if not learn.n_items:
        return "the batch is empty, and the mean of nothing is NaN"
    for name, part in (("inputs", learn.inputs), ("targets", learn.targets)):
        for tensor in tensors_in(part):
            if not is_finite(tensor):
                return f"the {name} contain NaN or infinity{rows_of(tensor, learn.n_items)}"
    if are_in(learn.model):  # the other processes would have to do the same
        return (
            "inputs and targets are finite; the weights are not searched, because each process has "
            "only a part of them"
        )
    found = tensors_of(learn)
    first = first_bad(found, {**found, **(buffers or {})})
    if first is not None:
        return f"the weights contain NaN or infinity, first in {first!r}"
    if all(map(is_finite, tensors_in(learn.preds))):
        return after_the_model(learn)
    return first_bad_layer(learn)


def rows_of(tensor: Tensor, n_items: int) -> str:
    """The items of the batch in which a tensor is bad, such as ` in items 0, 3 of the batch of 8`."""
    if not tensor.ndim or tensor.shape[0] != n_items or tensor.layout is not torch.strided:
        return ""
    rows = (~torch.isfinite(tensor)).reshape(n_items, -1).any(1).nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f" in {'item' if len(rows) == 1 else 'items'} {shown} of the batch of {n_items}"


def after_the_model(learn: LearnerProtocol) -> str:
    """The model's output is finite, so the cause is the loss function or a callback."""
    if isinstance(learn.loss, Tensor) and is_finite(learn.loss):
        return (
            f"the loss function returned {learn.loss.item():.6g}, so a callback has made learn.loss_grad "
            "NaN or infinite"
        )
    weight = LossWeight()
    weight.look(learn)
    if not weight.of(learn):
        return "no target of the batch counts for the loss (all are ignored), and the mean of nothing is NaN"
    cause = "inputs, targets, weights and predictions are finite, so the loss function overflows"
    if isinstance(learn.loss, Tensor) and learn.loss.isnan().any():
        cause += (
            ", or it is a mean of nothing, for example because all targets are ignored or all weights are 0"
        )
    return cause


def first_bad_layer(learn: LearnerProtocol) -> str:
    """Run the forward pass again, and name the first layer whose output is bad."""
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if not found and not all(map(is_finite, tensors_in(output))):
            where = f"the layer {name!r}" if name else "the model itself"
            found.append(f"{where} ({type(module).__name__})")

    preds = learn.preds
    try:
        with torch.no_grad(), undrawn(), watched(learn.model, look):
            run_forward(learn)
    finally:
        learn.preds = preds
    if not found:
        return (
            "inputs, targets and weights are finite, but the model's output was not. In a second pass, "
            "the output is finite, so it depends on random numbers, such as those of dropout"
        )
    return f"inputs, targets and weights are finite; the first output that is not comes from {found[0]}"


def watched(model: nn.Module, look: Any) -> Hooks:
    """Call `look(name, module, output)` after each layer's forward pass, inner layers before outer ones."""
    names = {module: name for name, module in model.named_modules()}
    return Hooks(names, lambda module, _, output: look(names[module], module, output))


def rate_of(learn: LearnerProtocol) -> Any:
    """The learning rate of the first group: a number, or a tensor if the optimizer has one."""
    return learn.optimizer.param_groups[0].get("lr", math.nan) if learn.optimizer is not None else math.nan
