"""What all processes of a group decide together: when to stop, and by what gradients are divided."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from callbacks.core.contract import (
    Callback,
    Cancel,
    CancelEpoch,
    CancelFit,
    CancelTrain,
    CancelValidate,
    LearnerProtocol,
    Order,
)
from callbacks.distributed import group as groups

HELD = (CancelFit, CancelEpoch, CancelTrain, CancelValidate)
LAG = 4  # batches after which a note on an accelerator is read, so that the host does not wait


class Group(groups.Group):
    """The processes of a fit, and what they agree on.

    Args:
        each: does each rank take a whole batch, rather than a share of it?
        sharded: is the data of each rank another already?
        divisor: what gradients that another callback accumulates are divided by.
    """

    def __init__(self, each: bool, sharded: bool, divisor: Callable[..., Any]):
        super().__init__()
        self.each, self.sharded = each, sharded
        self.group = self.size if each and not sharded else 1
        self._divisor = divisor
        self._wish: tuple[str, Any, Any] | None = None  # stop or cancel, its reason or class, the signal
        self._unit: Any = None
        self._n_first: int | None = None
        self.note: Any = None
        self._notes: list[Tensor] = []  # on an accelerator, not read yet
        self._begun, self._seconds = time.monotonic(), 0.0

    def begin_pass(self) -> None:
        """Forget what the batches of the last pass weighed."""
        self._unit = self._n_first = None
        self._notes.clear()

    def set_counts(self, n_here: int | None, n_everywhere: int | None) -> None:
        """Note the numbers of items of the batch that is yielded next."""
        self.n_here, self.n_everywhere = n_here, n_everywhere

    # Weights

    def share(self, learn: LearnerProtocol, weight: Any, *, is_sum: bool) -> Any:
        """The weight of this rank's batch, so that ranks with equal batches have 1; 0 without items."""
        if self.n_here == 0:
            return 0.0
        return 1.0 if is_sum else weight / self.unit(learn, weight)

    def unit(self, learn: LearnerProtocol, weight: Any) -> Any:
        """What weights are divided by, equal on all ranks; from the first batch of the pass on rank 0."""
        n_first = None if self.n_everywhere is None or self.each else -(-self.n_everywhere // self.size)
        if self._unit is None:
            value = weight.item() if isinstance(weight, Tensor) else weight
            self._unit, self._n_first = self.gather(value)[0] or 1, n_first
        if n_first == self._n_first or not n_first or not self._n_first:
            return self._unit
        return self._unit * n_first / self._n_first

    def divided_by(self, *, is_sum: bool) -> Any:
        """What synchronized gradients are divided by: a number on the CPU, otherwise a tensor."""
        weight = self.note[1]
        weight = weight.item() if self.note.is_cpu else weight
        if is_sum:
            return weight / self.size
        if isinstance(weight, Tensor):
            return weight.where(weight != 0, 1)
        return weight or 1

    def divisor(self, learn: LearnerProtocol, weight: Any, *, is_sum: bool) -> Any:
        return self._divisor(learn, weight, is_sum)

    # Stopping

    @property
    def wants_to_stop(self) -> bool:
        """Does this rank wait for the others to agree on a stop or a cancel?"""
        return self._wish is not None

    def stop(self, learn: Any, reason: str) -> None:
        if self.size == 1:
            super().stop(learn, reason)
        self._wish = self._wish or ("stop", reason, learn.interrupted)

    def holds(self, learn: Any, error: BaseException) -> bool:
        if self.size == 1 or not isinstance(error, HELD):
            return False
        self._wish = self._wish or ("cancel", type(error), None)
        return True

    @property
    def elapsed(self) -> float:
        """The seconds since the start of the fit in this process."""
        return time.monotonic() - self._begun

    def read_note(self, learn: Any) -> None:
        """Stop or cancel, if a rank asked for it before this backward pass."""
        note = self.note
        if not note.is_cpu:
            self._notes.append(note)
            if len(self._notes) <= LAG:
                return
            note = self._notes.pop(0)
        wish, _, self._seconds = note.tolist()
        if wish:
            self.agree(learn)

    def seconds(self) -> float:
        """The seconds of the first process since the start of the fit, which travel with each note."""
        return self._seconds

    def agree(self, learn: Any) -> None:
        """Ask all ranks whether to stop, and do what the first of them wants.

        Raises:
            Cancel: a callback of some rank has raised it.
        """
        wishes = [each for each in self.gather(self._wish) if each is not None]
        self._wish = None
        if not wishes:
            return
        kind, what, signal = wishes[0]
        learn.interrupted = learn.interrupted or signal
        if kind == "stop":
            learn.stop_reason = learn.stop_reason or what
            return
        error: Cancel = what()
        raise error


class Agreement(Callback):
    """Agree with the other processes at the end of each pass and epoch, after all callbacks that decide.

    `Distributed` adds it for the time of a fit.
    """

    order = Order.DECIDE

    def after_train(self, learn: LearnerProtocol) -> None:
        learn.ranks.agree(learn)

    def after_validate(self, learn: LearnerProtocol) -> None:
        if not learn.is_aside:
            learn.ranks.agree(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.ranks.agree(learn)
