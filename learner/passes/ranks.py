"""The batches of a pass in one of several processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from callbacks.place.device import map_tensors


def shared(
    batches: Iterable[Any], ranks: Any, n_items: Callable[[Any], int], *, training: bool
) -> Iterator[Any]:
    """The share of this rank of each batch; its numbers of items are set before."""
    with ranks.drawing_data():
        iterator = iter(batches)
    while True:
        with ranks.drawing_data():
            batch = next(iterator, ranks)
        if batch is ranks:
            return
        n = n_items(batch)
        size, rank = ranks.size, ranks.rank
        n_here = n // size + (rank < n % size)
        start = rank * (n // size) + min(rank, n % size)
        if not n_here and not training:
            continue
        ranks.set_counts(n_here, n)
        first, last = (start, start + n_here) if n_here else (0, 1)
        yield map_tensors(batch, partial(rows, first, last))


def rows(first: int, last: int, leaf: Any) -> Any:
    """Some rows of a tensor; anything else as it is."""
    return leaf[first:last] if isinstance(leaf, Tensor) else leaf
