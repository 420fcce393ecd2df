"""The processes that train together, as callbacks and the loop ask for them; here, one process alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from callbacks.core import draws
from callbacks.core.contract import Callback, LearnerProtocol

T = TypeVar("T")


class Stoppable(Protocol):
    """What a stop reads and sets of a learner."""

    batch_idx: int
    interrupted: str | None
    stop_reason: str | None


class Ranks:
    """The processes that train together: each has a rank, from 0. This class is one process alone.

    `learn.ranks` is the constant `ALONE`, unless `Distributed` has joined several processes for this fit.

    Attributes:
        rank: the number of this process.
        size: the number of processes.
        group: the number of batches that the processes take in one step, each a whole one; 1 if they share
            a batch.
        each: does each process take a whole batch, rather than a share of it?
        sharded: does each process have data of its own?
        n_here: items of the current batch in this process; None if it is all of them.
        n_everywhere: items of the current batch in all processes.
        is_over: has this process no batch left in the current pass, while others may have some?
        in_step: must all processes run the model at the same time, in validation too?
        share: how much this process's part of the current batch counts; None if the loss is of all parts.
        wants_to_stop: does this process wait for the others to agree on a stop or a cancel?
        joined: for the checkpoint that is written next, by the names of callbacks: the states of all
            processes together, where they differ.
    """

    rank: int = 0
    size: int = 1
    group: int = 1
    each: bool = False
    sharded: bool = False
    wants_to_stop: bool = False
    n_here: int | None = None
    n_everywhere: int | None = None
    is_over: bool = False
    in_step: bool = False
    share: Any = None
    joined: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_first(self) -> bool:
        """Is this the process that prints, draws and writes? Right outside a fit too."""
        return is_first_process()

    def files_group(self) -> Any:
        """A group of the processes for threads that write files; None for one process alone."""
        return None

    def n_items(self, learn: LearnerProtocol) -> int:
        """The items of the current batch in all processes."""
        return learn.n_items

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks. Every process must call this."""
        return [value]

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process; the others wait for it and do not call `make`.

        Raises:
            Exception: `make` raised it. The other processes raise a RuntimeError with its text.
        """
        return make()

    def set_counts(self, n_here: int | None, n_everywhere: int | None) -> None:
        """Set the numbers of items of the current batch; one process counts its own."""

    def joined_loss(self, learn: LearnerProtocol, loss: Any) -> Any:
        """`loss_grad` of the whole batch, from that of this process's part. Every process must call this."""
        return loss

    def loss_here(self, learn: LearnerProtocol) -> Any:
        """The loss of this process's share of the current batch; a number if reading it does not wait."""
        return learn.loss_value

    def losses_of_all(self, losses: list[float], shares: list[Any]) -> list[float]:
        """The losses of whole batches, from those of the parts in each process. Every process must call this.

        Args:
            losses: of the parts in this process.
            shares: how much each part counts; None where the loss is that of the whole batch already.
        """
        return losses

    def whole_loss(self, learn: LearnerProtocol) -> Any:
        """The loss of the current batch in all processes. Every process must call this."""
        return learn.loss

    def stop(self, learn: Stoppable, reason: str, *, alike: bool = False) -> None:
        """End the fit, at a moment that all processes agree on; at once if all processes decide alike."""
        learn.stop_reason = learn.stop_reason or reason

    def holds(self, learn: LearnerProtocol, error: BaseException, callback: Callback) -> bool:
        """Is this a cancel that waits until all processes agree on it?"""
        return False

    def seconds(self) -> float:
        """A clock that shows the same time in all processes at the same batch."""
        return time.monotonic()

    def drawing_data(self) -> AbstractContextManager[Any]:
        """A context in which random numbers are equal in all processes, for drawing the order of data."""
        return nullcontext()

    def n_steps(self, n_batches: int | None) -> int | None:
        """The number of batches that each process gets of a training pass with this many."""
        return None if n_batches is None else -(-n_batches // self.group)

    def kept_batch(self) -> AbstractContextManager[None]:
        """A context for a pass within a batch: afterwards, what is known about that batch is the same."""
        return nullcontext()

    def has_more(self, learn: LearnerProtocol, *, is_here: bool, has_ended: bool) -> bool:
        """Does any process have a batch for the next step? Every process must call this.

        Args:
            learn: the learner.
            is_here: has this process a batch? Then it does not wait for the others.
            has_ended: had this process a batch before, and has none now?
        """
        return is_here

    def n_active(self) -> float:
        """The number of processes that have a batch in this step, if each has data of its own."""
        return 1

    def share_of_own(self) -> float:
        """How much the batch of this process counts in this step, if each has data of its own."""
        return 1.0

    @property
    def random(self) -> dict[str, Any]:
        """The random states from which the order of data is drawn."""
        return draws.take()

    @random.setter
    def random(self, states: dict[str, Any]) -> None:
        draws.put(states)

    def prepare_save(self, learn: LearnerProtocol) -> None:
        """Get from the other processes what a checkpoint holds. Every process must call this."""

    def state_dict(self) -> dict[str, Any]:
        """What a snapshot or checkpoint holds of the processes: what differs between them."""
        return {}

    def load_state_dict(self, learn: LearnerProtocol, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, of any number of processes, after the callbacks' states."""

    def unit(self, learn: LearnerProtocol, weight: Any) -> Any:
        """What the weights of batches are divided by, from the weight of the first one."""
        return weight

    def divisor(self, learn: LearnerProtocol, weight: Any, *, is_sum: bool) -> Any:
        """What to divide accumulated gradients by, from the sum of weights in this process."""
        return 1 if is_sum else weight

    def agree(self, learn: LearnerProtocol) -> None:
        """Stop or cancel if a process wants to. Every process must call this."""


#: One process.
ALONE = Ranks()


def is_launched() -> bool:
    """Has a launcher such as `torchrun` started this process, or has the script made a process group?"""
    is_set = "RANK" in os.environ and os.environ.get("WORLD_SIZE", "").isdecimal()
    return is_set or rank_in_group() is not None


def is_first_process() -> bool:
    """Is this the only process, or the first of several?"""
    rank = rank_in_group()
    return (os.environ["RANK"] if rank is None and is_launched() else str(rank or 0)) == "0"


def rank_in_group() -> int | None:
    """The rank in torch's process group; None if the script has made none, or one of a single process."""
    distributed: Any = sys.modules.get("torch.distributed")  # it is not imported for this
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank() if distributed.get_world_size() > 1 else None
