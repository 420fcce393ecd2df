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


class StopOnNaNGradient(Callback):
    """End the fit with an error when a gradient is NaN or infinite though the loss is finite.

    On a CPU that is before the update, so the weights stay as they were. On another device nothing waits: the
    norms of a pass are looked at together when it ends. Not among the defaults, as the norm of all gradients
    costs some microseconds a step.

    Raises:
        FloatingPointError: in `before_step` or `after_train`, with the batch and the first bad parameters.
    """

    order = Order.MEASURE  # after those that change the gradient
    name = "stop_on_nan_gradient"

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._norms = Scalars()
        self._batches: list[int] = []

    def before_train(self, learn: LearnerProtocol) -> None:
        self.cleanup_fit(learn)

    def before_step(self, learn: LearnerProtocol) -> None:
        gradients = [each.grad for each in learn.model.parameters() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.is_cpu:
            self._norms.append(norm)
            self._batches.append(learn.batch_idx)
        elif not math.isfinite(norm.item()):  # no wait: the number is there
            bad = [name for name, each in learn.model.named_parameters() if is_bad(each.grad)]
            cause = f"first in {', '.join(map(repr, bad[:3]))}" if bad else "in their norm, by overflow"
            raise FloatingPointError(f"{gradients_of(learn, learn.batch_idx)}, {cause}. {GRADIENT_REMEDY}")

    def after_train(self, learn: LearnerProtocol) -> None:
        for batch_idx, norm in zip(self._batches, self._norms.read(), strict=True):  # the pass's one wait
            if not math.isfinite(norm):
                raise FloatingPointError(
                    f"{gradients_of(learn, batch_idx)}; it was found at the end of the pass, so the weights "
                    f"are no longer good. {GRADIENT_REMEDY}"
                )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._norms.clear()
        self._batches.clear()


GRADIENT_REMEDY = (
    "Look for a square root, logarithm or division at 0 in the model or the loss, and add a small number."
)


def gradients_of(learn: LearnerProtocol, batch_idx: int) -> str:
    """Which gradients they were."""
    return f"gradients are NaN or infinite in batch {batch_idx} of epoch {learn.epoch}"


def is_bad(gradient: torch.Tensor | None) -> bool:
    """Does it hold a number that is not finite?"""
    return gradient is not None and not bool(torch.isfinite(gradient).all())


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
