"""Guard the numbers: a loss that is NaN or infinite ends the fit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.contract import Callback, LearnerProtocol, Order
from callbacks.device import map_tensors


class StopOnNaN(Callback):
    """End the fit with an error when the training loss is NaN or infinite.

    On a CPU that is before the gradients are computed, so the weights stay as they were. On another device
    nothing
    waits: the losses of a pass are looked at together when it ends, and the error names the first bad batch.

    Raises:
        FloatingPointError: in `before_backward` or `after_train`, with the batch, the learning rate, the
            last good loss, and whether inputs, targets or weights went bad first.
    """

    order = Order.GRADIENT

    def __init__(self):
        self.last_good = math.nan
        self._finite: list[Tensor] = []

    def before_train(self, learn: LearnerProtocol) -> None:
        self._finite = []

    def before_backward(self, learn: LearnerProtocol) -> None:
        loss = learn.loss_grad
        if not loss.is_cpu:
            self._finite.append(torch.isfinite(loss.detach()))
            return
        value = loss.item()  # no wait: the number is there
        if math.isfinite(value):
            self.last_good = value
        else:
            raise FloatingPointError(describe_bad_loss(learn, value, learn.batch_idx, self.last_good))

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._finite and not torch.stack(self._finite).all():  # the pass's one wait
            batch_idx = torch.stack(self._finite).tolist().index(False)
            raise FloatingPointError(describe_bad_loss(learn, math.nan, batch_idx, self.last_good))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._finite = []


def describe_bad_loss(learn: LearnerProtocol, value: float, batch_idx: int, last_good: float) -> str:
    """What went bad first, and what to do about it."""
    if batch_idx == learn.batch_idx:
        bad = [f"{name} hold NaN or infinity" for name, part in parts_of(learn) if not all_finite(part)]
        cause = (
            f"the {bad[0]}"
            if bad
            else "inputs, targets and weights are finite, so the model or the loss overflows"
        )
    else:
        cause = "the batch is no longer at hand"
    rate = learn.optimizer.param_groups[0]["lr"]
    return (
        f"the loss is {value} in batch {batch_idx} of epoch {learn.epoch} (lr {rate:g}, last good loss "
        f"{last_good:.6g}): {cause}. "
        "Clean the data, lower the learning rate, or clip the gradients; to train on all the same, pass "
        "defaults without StopOnNaN."
    )


def parts_of(learn: LearnerProtocol) -> list[tuple[str, Any]]:
    """What a loss is made of, in the order in which it can go bad."""
    return [("inputs", learn.inputs), ("targets", learn.targets), ("weights", list(learn.model.parameters()))]


def all_finite(nested: Any) -> bool:
    """Are all floating-point tensors of a nest finite?"""
    found: list[bool] = []
    map_tensors(
        nested,
        lambda tensor: found.append(not isinstance(tensor, Tensor) or bool(torch.isfinite(tensor).all())),
    )
    return all(found)
