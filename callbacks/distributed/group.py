"""The group of processes that train together, and their communication."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from callbacks.core import draws
from callbacks.core.contract import LearnerProtocol
from callbacks.core.ranks import Ranks
from callbacks.core.when import saved_part
from callbacks.distributed.random_streams import Streams
from callbacks.distributed.rendezvous import OtherRankError, OtherRankOSError

T = TypeVar("T")

#: What a group notes about the current batch.
OF_BATCH = (
    *("n_here", "n_everywhere", "share", "is_over", "is_void", "_has_ended", "_asked"),
    *("_is_sent", "_is_counted", "_loss_here"),
)


class Differing(Protocol):
    """A callback that `differs_by_rank`."""

    name: str

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def joined_state(self, ranks: Ranks) -> dict[str, Any]: ...

    def clear_state(self) -> None: ...


class Members(Ranks):
    """The processes of the default group of `torch.distributed`, which can communicate."""

    def __init__(self, *, sharded: bool = False):
        self.rank, self.size, self.sharded = dist.get_rank(), dist.get_world_size(), sharded

    @property
    def is_first(self) -> bool:
        return self.rank == 0  # the general one reads the environment, which takes as long as a layer

    def gather(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def first(self, make: Callable[[], T]) -> T:
        found: list[Any] = [None, None]
        error: Exception | None = None
        if self.is_first:
            try:
                found[0] = make()
            except Exception as raised:  # noqa: BLE001, it is raised below, in all processes
                words = f"{type(raised).__name__}: {raised}"
                kind = OtherRankOSError if isinstance(raised, OSError) else OtherRankError
                error, found[1] = raised, (kind, words)
        if self.size > 1:
            dist.broadcast_object_list(found, src=0)
        if error is not None:
            raise error
        if found[1] is not None:
            kind, words = found[1]
            raise kind(f"rank 0 failed, so rank {self.rank} does too. {words}")
        return found[0]


class FitMembers(Members):
    """The same processes in a fit, with the random streams of this one."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = Streams(self.rank, self.first(draws.take))
        self._saved: list[dict[str, Any]] | None = None
        self._has_ended = False
        self._asked: Any = None  # the last exchange of `has_more`, and what it found
        self._files_group: Any = None

    def files_group(self) -> Any:
        if self._files_group is None:
            self._files_group = dist.new_group(backend="gloo")  # steps and writing do not wait for each other
        return self._files_group

    def end(self) -> None:
        """Leave the groups of this fit."""
        if self._files_group is not None:
            dist.destroy_process_group(self._files_group)

    @contextmanager
    def kept_batch(self) -> Iterator[None]:
        kept = {name: getattr(self, name) for name in OF_BATCH}
        yield
        vars(self).update(kept)

    @property
    def is_padding(self) -> bool:
        """Is the current batch one that this process had before, and runs again to stay in step?"""
        return self._has_ended and self.n_here == 0

    def has_more(self, learn: LearnerProtocol, *, is_here: bool, has_ended: bool) -> bool:
        self.is_over, self._has_ended = not is_here, has_ended
        number = torch.tensor(float(is_here), device=learn.device)
        self._asked = dist.all_reduce(number, async_op=True), number
        return is_here or self.n_active() > 0

    def n_active(self) -> float:
        if self._asked is None:
            return self.size
        work, number = self._asked
        work.wait()
        return number.item()

    def share_of_own(self) -> float:
        """How much the batch of this process counts, if each has data of its own."""
        return 0.0 if self.n_here == 0 else 1 / self.n_active()

    def drawing_data(self) -> AbstractContextManager[Any]:
        return self.streams.drawing_data()

    @property
    def random(self) -> dict[str, Any]:
        return self.streams.data

    @random.setter
    def random(self, states: dict[str, Any]) -> None:
        self.streams.data = states

    def prepare_save(self, learn: LearnerProtocol) -> None:
        differing = differing_in(learn)
        own = {each.name: each.state_dict() for each in differing}
        self._saved = self.gather({"random": self.streams.model, "callbacks": own})
        self.joined = {each.name: each.joined_state(self) for each in differing}

    def state_dict(self) -> dict[str, Any]:
        saved, self._saved, self.joined = self._saved, None, {}
        return {"own": self.streams.model, "rank": self.rank} if saved is None else {"all": saved}

    def load_state_dict(self, learn: LearnerProtocol, state: dict[str, Any]) -> None:
        if state.get("rank") == self.rank:  # a snapshot of this process
            self.streams.model = state["own"]
            return
        saved = state.get("all", [])
        if len(saved) == self.size:
            self.streams.model = saved[self.rank]["random"]
        else:
            self.streams.seed_model()
        for each in differing_in(learn):
            if len(saved) == self.size and each.name in saved[self.rank]["callbacks"]:
                each.load_state_dict(saved[self.rank]["callbacks"][each.name])
            elif not self.is_first:  # the first process saves the state of all
                each.clear_state()


def differing_in(learn: LearnerProtocol) -> list[Differing]:
    """The callbacks whose states differ between processes."""
    return [each for each in learn.callbacks if each.differs_by_rank and saved_part(each) is each]
