"""Guard the numbers: a loss that is NaN or infinite ends the fit."""

from __future__ import annotations

import math

import torch

from callbacks.contract import Callback, LearnerProtocol, Order
from callbacks.device import tensors_in
from callbacks.scalars import Scalars


class StopOnNaN(Callback):
    """End the fit with an error when the training loss is NaN or infinite.

    On a CPU that is before the gradients are computed, so the weights stay as they were. On another device
    nothing waits: the losses of a pass are looked at together when it ends, when the weights have gone bad
    already, and the error names the first bad batch.

    Raises:
        FloatingPointError: in `before_backward` or `after_train`, with the batch, the learning rate, the
            last good loss, and whether inputs, targets or weights went bad first.
    """

    order = Order.GRADIENT
    name = "stop_on_nan"

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._last_good = math.nan
        self._losses = Scalars()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._last_good = math.nan

    def before_train(self, learn: LearnerProtocol) -> None:
        self._losses.clear()

    def before_backward(self, learn: LearnerProtocol) -> None:
        loss = learn.loss_grad
        if not loss.is_cpu:
            self._losses.append(loss.detach())
            return
        value = loss.item()  # no wait: the number is there
        if value - value == 0:  # quicker than math.isfinite, and bears complex numbers
            self._last_good = value
        else:
            raise FloatingPointError(
                f"{place_of(learn, value, learn.batch_idx, self._last_good)}: {cause_of(learn)}. {REMEDY}"
            )

    def after_train(self, learn: LearnerProtocol) -> None:
        for batch_idx, value in enumerate(self._losses.read()):  # the pass's one wait
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{place_of(learn, value, batch_idx, self._last_good)}; it was found at the end of the "
                    f"pass, so the weights are no longer good. {REMEDY}"
                )
            self._last_good = value

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._losses.clear()


REMEDY = (
    "Clean the data, lower the learning rate, or clip the gradients. To train on all the same, give the "
    "learner defaults=(...) without StopOnNaN."
)


def place_of(learn: LearnerProtocol, value: float, batch_idx: int, last_good: float) -> str:
    """Which loss it was, and how things stood."""
    rate = float(learn.optimizer.param_groups[0].get("lr", math.nan))
    before = "it is the first of this fit" if math.isnan(last_good) else f"last good loss {last_good:.6g}"
    return f"the loss is {value} in batch {batch_idx} of epoch {learn.epoch} (lr {rate:g}, {before})"


def cause_of(learn: LearnerProtocol) -> str:
    """What went bad first: inputs, targets, weights, or the computation."""
    if not learn.n_items:
        return "the batch is empty, and the mean of nothing is NaN"
    for name, part in (("inputs", learn.inputs), ("targets", learn.targets)):
        if not all(torch.isfinite(tensor).all() for tensor in tensors_in(part)):
            return f"the {name} hold NaN or infinity"
    for name, tensor in (*learn.model.named_parameters(), *learn.model.named_buffers()):
        if not torch.isfinite(tensor).all():
            return f"the weights hold NaN or infinity, first in {name!r}"
    return "inputs, targets and weights are finite, so the model or the loss overflows"
