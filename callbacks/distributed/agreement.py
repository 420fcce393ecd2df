"""Decisions of all processes of a group: when to stop, and the number that gradients are divided by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import (
    Callback,
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelTrain,
    LearnerProtocol,
)
from callbacks.core.ranks import Stoppable
from callbacks.distributed.equality import check_equal, facts_of
from callbacks.distributed.group import FitMembers
from callbacks.step.accumulation import scaled

HELD = (CancelFit, CancelEpoch, CancelTrain)
N_STEPS = 1 << 6  # the number of updates is sent modulo this, so that sums are exact in float32
LAG = 4  # batches after which a message on an accelerator is read, so that the host does not wait


class Group(FitMembers):
    """The processes of a fit, and what they agree on.

    Args:
        divisor: what gradients that another callback accumulates are divided by.
        each: does each rank take a whole batch, rather than a share of it?
        sharded: does the data of each rank differ already?

    Attributes:
        is_void: has this rank cancelled the current batch?
        accumulates: may a message have the gradients of several batches?
    """

    def __init__(self, divisor: Callable[..., Any], *, each: bool, sharded: bool):
        super().__init__()
        self.each, self.sharded = each, sharded
        self.group = self.size if each and not sharded else 1
        self._divisor = divisor
        # stop or cancel, its reason or class, the signal, the batch
        self._request: tuple[str, Any, Any, int] | None = None
        self._unit: Any = None
        self._share: Any = 1.0
        self._is_sum = False
        self._n_first: int | None = None
        self._n_usual: int | None = None  # items of a batch, if those of the other ranks are unknown
        self._n_unsent = 0  # items of this rank that wait for an update, and that the others do not know
        self.accumulates = False
        self._weight: Any = 1.0  # of the gradients of all ranks
        self._numbers: Any = None  # the last ones that all ranks have sent
        self._loss_here: Any = None  # of this rank's share of the batch, once the others' are known
        self._is_sent = self.is_void = self._is_counted = False
        self._unread: list[Tensor] = []  # on an accelerator
        self._begun, self._seconds = time.monotonic(), 0.0

    def begin_pass(self) -> None:
        """Drop what is known about the batches of the last pass."""
        self._unit = self._n_first = self._n_usual = None
        self._n_unsent, self.is_over, self._has_ended, self._asked = 0, False, False, None
        self._unread.clear()

    def set_counts(self, n_here: int | None, n_everywhere: int | None) -> None:
        """Note the numbers of items of the batch that is yielded next."""
        self.n_here, self.n_everywhere = n_here, n_everywhere
        self._is_sent, self.is_void, self._is_counted, self._loss_here = False, False, False, None

    # Weights

    def share_of(self, learn: LearnerProtocol, weight: Any, *, is_sum: bool) -> Any:
        """The weight of this rank's batch, so that ranks with equal batches have 1; 0 without items."""
        unit = 1 if is_sum else self.unit(learn, weight)  # all ranks must ask for it
        return 0.0 if self.n_here == 0 else 1.0 if is_sum else weight / unit

    def unit(self, learn: LearnerProtocol, weight: Any) -> Any:
        """The divisor of weights, equal on all ranks; from the first batch of the pass on rank 0."""
        n_first = None if self.n_everywhere is None or self.each else -(-self.n_everywhere // self.size)
        if self._unit is None:
            value = weight.item() if isinstance(weight, Tensor) else weight
            self._unit, self._n_first = self.gather(value)[0] or 1, n_first
        if n_first == self._n_first or not n_first or not self._n_first:
            return self._unit
        return self._unit * n_first / self._n_first

    def divided_by(self, n_divided: int, *, is_sum: bool) -> Any:
        """What synchronized gradients are divided by: a number on the CPU, otherwise a tensor.

        Args:
            n_divided: what they are divided by already.
            is_sum: is the loss a sum?
        """
        if is_sum:
            return 1 / n_divided
        weight = self._weight / n_divided
        if isinstance(weight, Tensor):
            return weight.where(weight != 0, 1)
        return weight or 1

    def set_share(self, share: Any, *, is_sum: bool) -> None:
        """Note the weight of this rank's part of the current batch, and whether the loss is a sum."""
        self._share, self._is_sum = share, is_sum
        self.share = share if self.size > 1 else None

    def expect_items(self, learn: LearnerProtocol) -> None:
        """Note how many items a batch has, if only the other ranks know the number of theirs.

        All ranks must decide from equal numbers, so it is that of the first batch of rank 0.
        """
        if self._n_usual is None and self.n_everywhere is None and self.size > 1:
            self._n_usual = self.gather(learn.n_items)[0]

    def n_items(self, learn: LearnerProtocol) -> int:
        if self.n_everywhere is not None:
            return self.n_everywhere
        return learn.n_items if self._n_usual is None else self._n_usual * self.size

    def count_items(self, learn: LearnerProtocol, *, is_synced: bool) -> None:
        """Count the items of the other ranks, once for each batch; the loop counts those of this one.

        If only the other ranks know their number, the next message has it; on a device it is the usual one.
        """
        if self._is_counted or self.size == 1:
            return
        self._is_counted = True
        if self.n_everywhere is None and learn.device.type != "cpu":
            self.n_everywhere = self.n_items(learn)
        if self.n_everywhere is not None:
            learn.n_waiting += self.n_everywhere - learn.n_items
            return
        n_here = 0 if self.n_here == 0 else learn.n_items
        self._n_unsent = self._n_unsent * bool(learn.n_waiting) + n_here
        learn.n_waiting += n_here - learn.n_items
        if is_synced:
            self.count_others(learn)

    def count_others(self, learn: LearnerProtocol) -> None:
        """Count the items of the other ranks in the last message, which it did not have before."""
        if not isinstance(self._numbers, Tensor):
            learn.n_waiting += int(self._numbers[5]) - self._n_unsent
        self._n_unsent = 0

    def divisor(self, learn: LearnerProtocol, weight: Any, *, is_sum: bool) -> Any:
        return self._divisor(learn, weight, is_sum)

    # The message that the ranks send each other with the gradients

    def message(self, learn: LearnerProtocol, weight: Any, share: Any = None) -> list[Any]:
        """The numbers that are added over all ranks.

        Args:
            learn: the learner.
            weight: of all batches since the last update.
            share: the part of this batch in it; None if the update follows no batch.
        """
        loss: Any = 0.0
        if share is not None and not self._is_sent:  # otherwise `learn.again` computes its gradients again
            here = self._loss_here = learn.loss_value
            if isinstance(here, Tensor):
                loss = scaled(here, share)
            elif share:
                loss = here * share
        seconds = time.monotonic() - self._begun if self.is_first else 0.0
        is_of_batch = share is not None and self.n_here != 0
        n_items = self._n_unsent * bool(learn.n_waiting) + (learn.n_items if is_of_batch else 0)
        steps = learn.global_step % N_STEPS
        share = 0.0 if share is None else share
        is_active = float(self.n_here != 0)
        request = float(self._request is not None)
        return [request, weight, share, loss, seconds, n_items, steps, steps**2, is_active]

    def receive(self, learn: LearnerProtocol, numbers: Tensor, *, is_sum: bool) -> None:
        """Take in what all ranks have sent: the weight of the gradients, and the loss of the whole batch."""
        values = numbers.tolist() if numbers.is_cpu else numbers
        self._weight, share, loss = values[1], values[2], values[3]
        if self._loss_here is not None and not self._is_sent:
            if not is_sum:
                loss = loss / share if isinstance(share, Tensor) or share else math.nan
            learn.report_loss(loss if isinstance(loss, Tensor) else numbers.new_tensor(loss))
        self._is_sent, self._numbers, self.share = True, values, None

    def read(self, learn: LearnerProtocol) -> None:
        """Stop or cancel, if a rank asked for it before this backward pass.

        Raises:
            Cancel: a rank has cancelled something, or all ranks have cancelled this batch.
            RuntimeError: the ranks have not made the same updates.
        """
        values = self._numbers
        if self.n_here == 0 != self.n_everywhere and not values[8]:  # cancelled on all ranks that have items
            raise CancelBatch
        if isinstance(values, Tensor):
            self._unread.append(values)
            if len(self._unread) <= LAG:
                return
            values = self._unread.pop(0).tolist()
        elif self.n_everywhere is None and not self.accumulates:
            self.n_everywhere = int(values[5])
        has_request, _, _, _, self._seconds, _, steps, squares, _ = values
        # the variance is 0, but for rounding; all ranks find the same, however many of them differ
        differs = self.size * squares - steps**2 > (self.size - 1) / 2
        if has_request or differs:
            self.agree(learn, within=True, compares=differs)

    # Stopping

    def stop(self, learn: Stoppable, reason: str, *, alike: bool = False) -> None:
        if self.size == 1 or alike:
            super().stop(learn, reason)
        elif not learn.stop_reason:
            self._request = self._request or ("stop", reason, learn.interrupted, learn.batch_idx)

    def holds(self, learn: LearnerProtocol, error: BaseException, callback: Callback) -> bool:
        if self.size == 1 or callback.decides_alike:
            return False
        if isinstance(error, CancelBatch) and learn.training and not self._is_sent:
            self.is_void, self.n_here = True, 0  # the others need this rank's part in the gradients
            return True
        if not isinstance(error, HELD):
            return False
        self._request = self._request or ("cancel", type(error), None, learn.batch_idx)
        return True

    def joined_loss(self, learn: LearnerProtocol, loss: Any) -> Any:
        if self.size == 1:
            return loss
        pairs = self.gather((float(loss), float(self._share)))
        total, weight = (sum(each) for each in zip(*pairs, strict=True))
        return torch.tensor(total if self._is_sum else total / weight, dtype=loss.dtype, device=loss.device)

    def loss_here(self, learn: LearnerProtocol) -> Any:
        return learn.loss_value if self._loss_here is None else self._loss_here

    def whole_loss(self, learn: LearnerProtocol) -> Any:
        if self.share is None:
            return learn.loss
        return self.losses_of_all([float(learn.loss)], [float(self.share)])[0]

    def losses_of_all(self, losses: list[float], shares: list[Any]) -> list[float]:
        found = []
        for parts in zip(*self.gather(list(zip(losses, shares, strict=True))), strict=True):
            if parts[0][1] is None:
                found.append(parts[0][0])
                continue
            total = sum(loss * share for loss, share in parts if share)
            found.append(total if self._is_sum else total / (sum(share for _, share in parts) or 1))
        return found

    def seconds(self) -> float:
        """The seconds of the first process since the start of the fit, which travel with each message."""
        return self._seconds

    def agree(
        self,
        learn: LearnerProtocol,
        *,
        within: bool = False,
        compares: bool = False,
        ended: type[Cancel] = Cancel,
    ) -> None:
        """Ask all ranks whether to stop, and do what the first of them wants.

        Args:
            learn: the learner.
            within: is this in a training batch?
            compares: compare what must be equal on all ranks too?
            ended: the cancel of the span that has ended, which no longer means anything.

        Raises:
            Cancel: a callback of some rank has raised it; or `CancelBatch`, if a rank has stopped before this
                batch.
            RuntimeError: the ranks are not equal.
        """
        found = self.gather((self._request, facts_of(learn) if compares else {}))
        self._request = None
        check_equal(learn, [facts for _, facts in found])
        requests = [request for request, _ in found if request is not None]
        if not requests:
            return
        kind, what, signal, batch_idx = requests[0]
        learn.interrupted = learn.interrupted or signal
        is_void = within and not signal and batch_idx < learn.batch_idx and not learn.n_waiting
        if is_void:  # one process would not have started this batch
            learn.batch_idx -= 1
        if kind == "cancel" and what is not ended:
            raise what
        if kind == "stop":
            learn.stop_reason = learn.stop_reason or str(what)
        if is_void:
            raise CancelBatch
