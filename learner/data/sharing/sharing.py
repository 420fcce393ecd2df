"""Iterate over a rank's part of the batches that one process would iterate over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from learner.data import items
from learner.data.batching import Span, TensorLoader
from learner.data.data import Data
from learner.data.leaks import checked
from learner.data.loaders import is_sequence
from learner.data.sharing import by_index
from learner.data.sharing.first_batch import unchecked
from learner.data.sharing.padding import Padding
from learner.data.sharing.shares import Check, Note, Share, Stream
from learner.data.sharing.slicing import HINT, Slicer
from learner.data.tensors import describe

END = object()


@dataclass
class Shared:
    """A rank's part of the batches of a pass, to iterate over instead of those of one process.

    All ranks draw the same batches from the user's own sampler or loader, in the same order, and each takes
    its part. So they need equal loaders, and equal random states at the start of a pass.

    Attributes:
        batches: what one process would iterate over, such as a `DataLoader`.
        share: which part of each batch the rank takes.
        note: called before each batch with the number of items in it, and that of all ranks; both are None if
            they are unknown. If the first is 0, the batch only keeps the ranks in step, and must not count.
        data: the `Data`, which splits a batch and counts its items.
        in_step: do all ranks need the same number of batches, as in training? Otherwise a rank skips a batch
            if nothing of it is left for the rank.
        stream: a function that returns a context in which all ranks draw the same random numbers.
        check: called once with the batch or the indices that all ranks share out first.
        padding: for data of its own, what keeps the ranks in step; None if all ranks have the same number of
            batches anyway, or need not.
    """

    batches: Iterable[Any]
    share: Share
    note: Note
    data: Data
    in_step: bool = True
    stream: Stream = nullcontext
    check: Check = unchecked
    padding: Padding | None = None

    def __iter__(self) -> Iterator[Any]:
        return self.after(0)[0]

    def after(self, n_done: int) -> tuple[Iterator[Any], int]:
        """The batches after the first ones, and the number of those that were there to skip."""
        found = self.batches
        if isinstance(found, TensorLoader) and not self.share.sharded:
            n_skipped = min(n_done, self.share.length(len(found)) or 0)
            return found.from_batch(0, self._spans(found, n_done)), n_skipped
        if isinstance(found, DataLoader) and by_index.is_possible(found) and not self.share.sharded:
            options = {"in_step": self.in_step, "stream": self.stream, "check": self.check}
            return by_index.batches_of(found, self.share, self.note, n_done, **options)
        groups = self.share.groups_of(self._drawn(found))
        n_skipped = sum(1 for _ in islice(groups, n_done))
        return self._parts(groups), n_skipped

    def rest(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The rank's part of the other batches of a pass, if something else has skipped the first ones."""
        return self._parts(self.share.groups_of(self._drawn(batches)))

    def _spans(self, loader: TensorLoader, n_done: int) -> Iterator[Span]:
        """The rank's range of each batch in the order of the epoch."""
        for group in self.share.groups_of(loader.spans(n_done * self.share.group)):
            taken = self.share.of([stop - start for start, stop in group], in_step=self.in_step)
            if taken is not None:
                self.note(taken.n_here, taken.n_everywhere)
                first = group[taken.number][0]
                yield first + taken.start, first + taken.stop

    def _drawn(self, found: Iterable[Any]) -> Iterator[Any]:
        """The batches, drawn from the stream."""
        stream = nullcontext if is_sequence(found) else self.stream
        with stream():
            batches = checked(iter(found))
        while True:
            with stream():
                batch = next(batches, END)
            if batch is END:
                return
            yield batch

    def _parts(self, groups: Iterator[list[Any]]) -> Iterator[Any]:
        """The rank's part of each batch."""
        if self.share.sharded:
            yield from self._own(batches for (batches,) in groups)
            return
        slicer = Slicer()
        for number, group in enumerate(groups):
            if number == 0:
                self.check(group)
            sizes = [self._size(batch) for batch in group]
            taken = self.share.of(sizes, in_step=self.in_step)
            if taken is None:
                continue
            batch = group[taken.number]
            if not self.share.each:
                assert taken.n_everywhere is not None  # otherwise `_size` has raised an error
                batch = slicer.slice(batch, taken.start, taken.stop, taken.n_everywhere)
            self.note(taken.n_here, taken.n_everywhere)
            yield batch

    def _own(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The rank's own batches."""
        if self.padding is not None:
            yield from self.padding.around(batches)
            return
        for batch in batches:
            self.note(None, None)
            yield batch

    def _size(self, batch: Any) -> int | None:
        n_items = items.known_count(self.data, batch)
        if n_items is None and not self.share.each:
            raise TypeError(f"a batch, {describe(batch)}, cannot be split into items. {HINT}")
        return n_items
