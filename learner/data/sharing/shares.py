"""Which part of each batch a rank takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, NamedTuple

Stream = Callable[[], AbstractContextManager[Any]]  # a context in which all ranks draw the same numbers
Check = Callable[[Any], None]  # takes the first batch of a pass, or its indices
Note = Callable[[int | None, int | None], None]  # takes the number of items here and everywhere


class Taken(NamedTuple):
    """What a rank takes of a group of batches that the ranks share out together."""

    number: int  #: of the batch in the group
    start: int  #: of its items
    stop: int
    n_here: int | None  #: how many of these items are trained on; 0 if they only keep the ranks in step
    n_everywhere: int | None  #: the number of items of all ranks


class Share(NamedTuple):
    """Which part of each batch a rank takes."""

    rank: int  #: from 0
    size: int  #: the number of ranks
    each: bool = False  #: take whole batches in turn, rank r those of numbers r, r + size, ...
    sharded: bool = False  #: take all batches, because each rank has its own data
    epoch: int = 0  #: its number, on which the random draws of a data set depend

    @property
    def group(self) -> int:
        """The number of batches that the ranks share out together, in one step."""
        return self.size if self.each and not self.sharded else 1

    def length(self, n_batches: int | None) -> int | None:
        """The number of batches that a rank gets in training from a pass of `n_batches`."""
        return None if n_batches is None else -(-n_batches // self.group)

    def groups_of(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        """The batches in lists of one group each; the last may be smaller."""
        source = iter(batches)
        while found := list(islice(source, self.group)):
            yield found

    def of(self, sizes: Sequence[int | None], *, in_step: bool) -> Taken | None:
        """What the rank takes of a group; None if nothing is left for it.

        If the ranks stay in step, each needs a batch: one for which nothing is left takes the first item or
        batch, which does not count.

        Args:
            sizes: the number of items of each batch in the group; None for a batch that cannot be split.
            in_step: do all ranks need the same number of batches, as in training?
        """
        first = sizes[0]
        if self.each:
            total = None if None in sizes else sum(n for n in sizes if n)
            if self.rank < len(sizes):
                size = sizes[self.rank]
                return Taken(self.rank, 0, size or 0, size, total)
            return Taken(0, 0, first or 0, 0, total) if in_step else None
        assert first is not None
        start, stop = self.span(first)
        if start < stop:
            return Taken(0, start, stop, stop - start, first)
        return Taken(0, 0, min(1, first), 0, first) if in_step else None

    def span(self, n_items: int) -> tuple[int, int]:
        """The rank's range of a batch, like `torch.tensor_split`: the first ranks have one item more."""
        some, more = divmod(n_items, self.size)
        start = self.rank * some + min(self.rank, more)
        return start, start + some + (self.rank < more)
