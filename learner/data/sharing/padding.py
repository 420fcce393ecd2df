"""Keep the ranks in step if each has data of its own, and some ranks have fewer batches than others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from callbacks.core.contract import LearnerProtocol
from callbacks.core.ranks import Ranks
from learner.data.sharing.shares import Note

END = object()


@dataclass
class Padding:
    """Adds batches that do not count, until no rank has a batch left.

    Attributes:
        learn: the learner.
        note: called with the numbers of items before each batch.
    """

    learn: LearnerProtocol
    note: Note

    def around(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of this rank, and then its last one again, with a count of 0 items.

        Every rank must iterate over this. A rank without any batch repeats the first one of another rank. No
        batch is fetched before it is needed, so the loader is at the position of the batch that was yielded.
        """
        ranks: Ranks = self.learn.ranks
        held, n_own = END, 0
        while True:
            batch = next(batches, END)
            is_here = batch is not END
            if not ranks.has_more(self.learn, is_here=is_here, has_ended=not is_here and n_own > 0):
                return
            if held is END:
                held = of_any_rank(ranks, batch)
            if is_here:
                held, n_own = batch, n_own + 1
            self.note(None if is_here else 0, None)
            yield held

    def n_skipped(self, n_here: int) -> int:
        """The number of batches that the rank with the most has skipped. Every rank must call this."""
        return max(self.learn.ranks.gather(n_here))


def of_any_rank(ranks: Ranks, batch: Any) -> Any:
    """The first batch of any rank that has one, for those that have none; otherwise this batch."""
    if ranks.n_active() == ranks.size:
        return batch
    source = ranks.gather(batch is not END).index(True)
    found = ranks.gather(batch if ranks.rank == source else None)[source]
    return found if batch is END else batch
