"""End the fit when a loss or a gradient is NaN or infinite."""

from __future__ import annotations

import copy
import math
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, CancelBatch, LearnerProtocol, Order
from callbacks.core.modules import TrainedParameters, loss_module, loss_parameters
from callbacks.core.settings import check_count
from callbacks.core.warning import warn
from callbacks.guard.culprit import cause_of, rate_of
from callbacks.guard.last_good import KeptBuffers, LastGood
from callbacks.model.finite import bad_gradients, count_bad, first_bad
from callbacks.model.norms import total_norm
from callbacks.model.plain_attributes import plain_state, put_plain

WAIT_EVERY = 1024  # steps; then a wait of 20 us is negligible, and so is the memory of one tensor per step


class StopOnNaN(Callback):
    """End the fit with an error when the training loss is NaN or infinite.

    On a CPU, the check runs before the gradients are computed, so weights and buffers stay as they were
    before the batch. On another device, no step waits. The losses stay on the device, and are checked
    together at the end of a pass and every `wait_every` steps. By then the weights may be bad, so a copy of
    weights and buffers is kept on the device. The copy is made at the start of a pass, and again each time
    the losses are good. Before the error is raised, the copy is restored and the optimizer's state is
    emptied. Counters and history stay as they are.

    The check sees the loss before callbacks scale it for its gradient, so an overflow of a gradient scaler is
    not an error.

    Args:
        skip: number of bad batches in a row to skip with a warning before it is an error. Gradients
            that were accumulated over several batches are dropped with them.
        wait_every: on a device, the number of steps between two checks. With 1, each step waits and is
            checked as on a CPU, which shows what went bad first.

    Raises:
        FloatingPointError: in `before_backward`, `after_train`, `after_epoch` or `after_fit`, with the batch,
            the learning rate and the last good loss; if each step is checked, it also names the input,
            target, weight or layer that went bad first.
        ValueError: a setting is invalid; or `skip` is used with a `wait_every` above 1 on a device, since
            skipping needs a check of each batch.
    """

    only_observes = True  # it ends the fit, and changes no weight
    order = Order.TRANSFORM  # before callbacks in GRADIENT, which may scale the loss
    name = "stop_on_nan"

    def __init__(self, *, skip: int = 0, wait_every: int = WAIT_EVERY, name: str | None = None):
        super().__init__(name=name)
        self.skip = check_count("StopOnNaN", "skip", skip, 0)
        self.wait_every = check_count("StopOnNaN", "wait_every", wait_every, 1)
        self._good, self._buffers, self._of_loss = LastGood(), KeptBuffers(), KeptBuffers()
        self._begin()

    def _begin(self) -> None:
        self._last_good = math.nan
        self._n_skipped = 0
        self._pending: list[tuple[Tensor, int, Any]] = []  # loss, batch, rate
        self._loss: nn.Module | None = None
        self._plain: dict[str, Any] | None = None  # the model's plain attributes before the batch
        self._good.clear()
        self._buffers.clear()
        self._of_loss.clear()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._begin()

    def before_train(self, learn: LearnerProtocol) -> None:
        self._buffers.clear()  # the buffers may have been replaced
        self._of_loss.clear()
        self._loss = loss_module(learn.loss_func)

    def before_batch(self, learn: LearnerProtocol) -> None:
        # otherwise there is a copy already
        if learn.training and (not self._pending or len(self._pending) == self.wait_every):
            self._buffers.keep(learn.model)
            if self._loss is not None:
                self._of_loss.keep(self._loss)
            if self.skip:
                self._plain = copy.deepcopy(plain_state(learn.model))

    def before_backward(self, learn: LearnerProtocol) -> None:
        loss = learn.loss_grad
        if self.wait_every > 1 and not is_free_to_read(loss):
            self._postpone(learn, loss)
            return
        value = loss.item()  # no wait on a CPU: the number is there
        if value - value == 0:  # faster than math.isfinite, and works for complex numbers
            self._last_good = value
            self._n_skipped = 0
        else:
            self._handle(learn, value)

    def _handle(self, learn: LearnerProtocol, value: float) -> None:
        """Handle a bad loss before the update: skip the batch, or end the fit."""
        place = place_of(value, learn.batch_idx, learn.epoch, rate_of(learn), self._last_good)
        message = f"{place}: {cause_of(learn, self._buffers.copies)}"
        self._buffers.restore()
        self._of_loss.restore()
        self._n_skipped += 1
        if self._plain is not None:
            put_plain(learn.model, self._plain)
        if self._n_skipped <= self.skip:
            warn(f"{message}. The batch is skipped ({self._n_skipped} of at most {self.skip} in a row).")
            raise CancelBatch
        in_a_row = f", the {ordinal(self._n_skipped)} in a row" if self.skip else ""
        raise FloatingPointError(f"{message}{in_a_row}. {FIX}")

    def _postpone(self, learn: LearnerProtocol, loss: Tensor) -> None:
        """Keep a loss on its device, to be checked later."""
        if self.skip:
            raise ValueError(
                f"StopOnNaN(skip={self.skip}) on {loss.device}: to skip a batch, its loss must be read "
                "before the update. Pass wait_every=1 as well, which waits for the device at each step, or "
                "omit skip."
            )
        if len(self._pending) >= self.wait_every:
            self._check_pending(learn)
        if not self._pending:
            self._good.keep(learn, self._buffers.copies)
        self._pending.append((loss.detach(), learn.batch_idx, rate_of(learn)))

    def _check_pending(self, learn: LearnerProtocol) -> None:
        """Read the pending losses, and check that the weights are finite. Waits once."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        weights = self._good.weights_of(learn)
        *values, norm = read([*(loss for loss, _, _ in pending), total_norm([*weights.values()])])
        for value, (_, batch_idx, rate) in zip(values, pending, strict=True):
            if not math.isfinite(value):
                self._end(learn, place_of(value, batch_idx, learn.epoch, rate, self._last_good))
            self._last_good = value
        if not math.isfinite(norm) and self._has_more_bad(weights):
            first = first_bad(weights, weights)
            self._end(
                learn,
                f"the weights contain NaN or infinity, first in {first!r}, after batch {pending[-1][1]} "
                f"of epoch {learn.epoch}, though the losses of the last {len(pending)} are finite (last "
                f"good loss {self._last_good:.6g}), so a gradient was not",
            )

    after_train = after_epoch = after_fit = _check_pending  # a pass may have been cancelled

    def _has_more_bad(self, weights: dict[str, Tensor]) -> bool:
        """Are more weights bad than when they were copied? Those are intended, as in padding. Waits."""
        n_before, n_now = read([self._good.count_bad(weights), count_bad(weights.values())])
        return n_now > n_before

    def _end(self, learn: LearnerProtocol, what: str) -> NoReturn:
        """Restore the weights, and end the fit with an error."""
        done = self._good.restore(learn)
        raise FloatingPointError(f"{what}. On a device, this is detected later: {done}. {FIX} {CHECK_EACH}")

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._begin()


class StopOnNaNGradient(Callback):
    """End the fit with an error when a gradient is NaN or infinite though the loss is finite.

    On a CPU, the check runs before the update, so the weights stay as they were. On another device no step
    waits: as in `StopOnNaN`, the norms are checked together, and bad weights are restored. It is not a
    default callback, since the norm of all gradients costs some microseconds per step.

    Do not use it with a gradient scaler: an overflow of scaled gradients is not an error, because the scaler
    skips that update and lowers its scale.

    Args:
        wait_every: on a device, the number of steps between two checks. With 1, each step waits.

    Raises:
        FloatingPointError: in `before_step`, `after_train`, `after_epoch` or `after_fit`, with the batch and
            the first bad parameters.
        ValueError: `wait_every` is not a whole number of 1 or more.
    """

    order = Order.MEASURE  # after callbacks that change the gradient
    name = "stop_on_nan_gradient"

    def __init__(self, *, wait_every: int = WAIT_EVERY, name: str | None = None):
        super().__init__(name=name)
        self.wait_every = check_count("StopOnNaNGradient", "wait_every", wait_every, 1)
        self._good, self._trained = LastGood(), TrainedParameters()
        self._pending: list[tuple[Tensor, int]] = []

    def before_train(self, learn: LearnerProtocol) -> None:
        self._pending = []

    def before_step(self, learn: LearnerProtocol) -> None:
        norm = total_norm(self._trained.gradients(learn))
        if self.wait_every > 1 and not is_free_to_read(norm):
            if len(self._pending) >= self.wait_every:
                self._check_pending(learn)
            if not self._pending:
                self._good.keep(learn)
            self._pending.append((norm, learn.batch_idx))
        elif not math.isfinite(norm.item()):  # no wait on a CPU: the number is there
            bad = bad_gradients([*learn.model.named_parameters(), *loss_parameters(learn).items()])
            cause = f"first in {', '.join(map(repr, bad[:3]))}" if bad else "in their norm, by overflow"
            raise FloatingPointError(f"{gradients_in_words(learn, learn.batch_idx)}, {cause}. {GRADIENT_FIX}")

    def _check_pending(self, learn: LearnerProtocol) -> None:
        """Read the pending norms. Waits once."""
        pending, self._pending = self._pending, []
        for norm, (_, batch_idx) in zip(read([norm for norm, _ in pending]), pending, strict=True):
            if not math.isfinite(norm):
                done = self._good.restore(learn)
                raise FloatingPointError(
                    f"{gradients_in_words(learn, batch_idx)}. On a device, this is detected later: "
                    f"{done}. {GRADIENT_FIX}"
                )

    after_train = after_epoch = after_fit = _check_pending

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._good.clear()
        self._trained.clear()
        self._pending = []


FIX = (
    "Clean the data, lower the learning rate, or clip the gradients. To skip a few such batches, pass "
    "StopOnNaN(skip=3). To train anyway, use Learner(..., defaults=(...)) without StopOnNaN."
)
CHECK_EACH = "To find the cause, run the fit again with StopOnNaN(wait_every=1)."
GRADIENT_FIX = (
    "Look for a square root, logarithm or division at 0 in the model or the loss, and add a small number."
)


def is_free_to_read(number: Tensor) -> bool:
    """Can it be read without waiting for a device?"""
    return number.is_cpu


def read(numbers: list[Tensor]) -> list[float]:
    """Read numbers of one device in one transfer."""
    if not numbers:
        return []
    device = numbers[0].device
    return torch.stack([each.detach().reshape(()).to(device) for each in numbers]).tolist()


def place_of(value: float, batch_idx: int, epoch: int, rate: Any, last_good: float) -> str:
    """Describe a bad loss: its batch, the learning rate and the last good loss."""
    before = "the first loss of this fit" if math.isnan(last_good) else f"last good loss {last_good:.6g}"
    return f"the loss is {value} in batch {batch_idx} of epoch {epoch} (lr {float(rate):g}, {before})"


def gradients_in_words(learn: LearnerProtocol, batch_idx: int) -> str:
    """Describe bad gradients by their batch."""
    return f"gradients are NaN or infinite in batch {batch_idx} of epoch {learn.epoch}"


def ordinal(number: int) -> str:
    """`2nd` of 2."""
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
