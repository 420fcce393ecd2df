"""Batches of any size, made from the loader's data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.place.device import map_tensors, tensors_in
from callbacks.step.mixed_loss import is_rows
from learner.data.batching import TensorLoader
from learner.data.items import in_batch
from learner.data.loaders import n_batches_of
from learner.data.tensors import describe
from learner.state.protocol import FullLearner
from learner.tools.cost_runs import untouched

N_SEEN = 8  # the one with the most bytes per item is used, because padded text differs in length


class Stock:
    """Makes batches of any size: by `make`, of repeated rows of a real batch, or of collated items.

    If each tensor of a batch has one row per item, rows of a real batch are repeated: of the first eight
    batches the one with most bytes per item. Otherwise, with a `DataLoader` over a map-style data set, its
    first items are collated.
    """

    def __init__(self, learn: FullLearner, make: Callable[[int], Any] | None):
        self.data = learn.data
        self.make = make
        self.n_items = 0  # of the loader's batches
        self._items: list[Any] = []
        if make is None:
            self.make = self._find(learn)

    def __call__(self, size: int) -> Any:
        """A new batch of `size` items."""
        assert self.make is not None
        return self.make(size)

    def _find(self, learn: FullLearner) -> Callable[[int], Any]:
        loader = learn.data.train
        with untouched(learn), learn.sandbox():  # restores the loader's position and all random states
            batches = list(islice(iter(learn.data.batches(loader)), N_SEEN))
        if not batches:
            raise ValueError("find_batch_size: the training data yields no batch: pass at least one.")
        batch = max(batches, key=self._bytes_per_item)
        self.n_items = in_batch(self.data, batch)
        if has_rows(batch, self.n_items):
            return lambda size: with_rows(batch, self.n_items, size)
        if is_collating(loader):
            return lambda size: self._collated(loader, size)
        raise TypeError(
            f"find_batch_size: a batch is {describe(batch)}, which cannot be resized, because not every "
            f"tensor in it has one row for each of the {self.n_items} items. Pass a function that makes a "
            "batch: find_batch_size(make_batch=lambda n: ...)."
        )

    def _bytes_per_item(self, batch: Any) -> float:
        return sum(each.nbytes for each in tensors_in(batch)) / max(in_batch(self.data, batch), 1)

    def _collated(self, loader: Any, size: int) -> Any:
        n_there = len(loader.dataset)
        self._items += [loader.dataset[n % n_there] for n in range(len(self._items), size)]
        return loader.collate_fn(self._items[:size])


def has_rows(batch: Any, n_items: int) -> bool:
    """Does a batch consist of tensors with one row per item?"""
    found: list[bool] = []
    map_tensors(batch, lambda leaf: found.append(is_rows(leaf, n_items)))
    return bool(found) and all(found) and not has_lists(batch)


def has_lists(batch: Any) -> bool:
    """Does it contain a list of other things than tensors, such as one string per item?"""
    parts = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, (list, tuple)) else ()
    return any(
        isinstance(part, (list, tuple)) and not all(isinstance(each, Tensor) for each in part)
        for part in parts
        if not isinstance(part, Tensor)
    )


def with_rows(batch: Any, n_items: int, size: int) -> Any:
    """A batch of another size: the rows of this one, repeated."""
    rows = torch.arange(size) % n_items
    return map_tensors(batch, lambda leaf: leaf.index_select(0, rows.to(leaf.device)))


def is_collating(loader: Any) -> bool:
    """Is it a `DataLoader` that collates items of a map-style data set?"""
    return (
        isinstance(loader, DataLoader)
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
        and hasattr(loader.dataset, "__len__")
    )


def n_items_of_loader(loader: Any, n_items_of_batch: int) -> int | None:
    """How many items a pass has, at most; None if the loader has no length."""
    if isinstance(loader, TensorLoader):
        return loader.n_items
    if is_collating(loader):
        return len(loader.dataset)
    n_batches = n_batches_of(loader)
    return n_batches * n_items_of_batch or None if n_batches else None
