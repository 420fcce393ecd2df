"""A data set whose random draws in a worker depend only on the epoch and the batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from learner.data.generators import draw_one, generators_in, get, kind_of, put, seed_generators

OWN = frozenset({"dataset", "base_seed", "items_draw"})
STREAMS = (b"torch", b"python", b"numpy", b"own")  # each gets its own seed


class Part(list[Any]):
    """The indices of a part of a batch; what an item draws depends only on its position in the pass.

    Args:
        indices: of the items.
        seed: of the pass.
        first: the position of the first item.
    """

    def __init__(self, indices: Iterable[Any] = (), seed: int = 0, first: int = 0):
        super().__init__(indices)
        self.seed, self.first = seed, first


class Seeded(Dataset[Any]):
    """A data set whose random draws in a loader's worker depend only on the epoch and the batch.

    A worker draws from one stream as long as it lives, so its draws for a batch depend on all earlier
    batches, and a run that resumes within an epoch must fetch them again. With `Seeded`, each batch starts
    its own streams (of torch, NumPy, Python, and of generators that the data set holds), and earlier batches
    are not needed. In the main process nothing changes. The attributes of the data set are available here. If
    several processes share a batch, each item starts its own streams instead, even in the main process.

    `Data.from_datasets(..., num_workers=2)` wraps data sets in it. With `persistent_workers=True` the loader
    has one seed for all epochs, so a batch of the same items has the same draws in each epoch.

    Args:
        dataset: a map-style data set, with `__getitem__` and `__len__`.

    Raises:
        TypeError: it is an `IterableDataset`, which has no indices.
    """

    dataset: Any
    base_seed: int | None  # of workers in another process, for workers that replace them
    items_draw: bool  # has an item of a `Part` drawn random numbers?

    def __init__(self, dataset: Any):
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"Seeded({type(dataset).__name__}): it needs a map-style data set, with __getitem__ and "
                "__len__; pass an iterable one to the loader directly."
            )
        self.dataset, self.base_seed, self.items_draw = dataset, None, False

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, Part):  # a loader without batching requests several items as one
            with restored(self.dataset) as own:
                seed_all((index.seed, index.first), own)
                return self.dataset[list(index)]
        self._seed([index])  # or single items
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        """The items of a batch, seeded once for all; the items of a `Part` are seeded one by one."""
        if isinstance(indices, Part):
            with restored(self.dataset) as own:
                return self._items_of(indices, own)
        self._seed(indices)
        return self._fetch(indices)

    def _seed(self, indices: Sequence[Any]) -> None:
        worker = get_worker_info()
        if worker is None:
            return
        base_seed = worker.seed - worker.id if self.base_seed is None else self.base_seed
        seed_all((base_seed, list(indices)), generators_in(self.dataset).values())

    def _fetch(self, indices: Sequence[Any]) -> Any:
        together = getattr(self.dataset, "__getitems__", None)
        return together(indices) if together else [self.dataset[index] for index in indices]

    def _items_of(self, part: Part, own: list[Any]) -> Any:
        if not self.items_draw:  # seeding each item often takes longer than loading it
            seed_all(part.seed, own)
            undrawn = next_draws(own)
            seed_all(part.seed, own)
            found = self._fetch(list(part))
            if next_draws(own) == undrawn:
                return found
            self.items_draw = True
        found = []
        for position, index in enumerate(part, start=part.first):
            seed_all((part.seed, position), own)
            found.append(self.dataset[index])
        return found

    def __getattr__(self, name: str) -> Any:
        if name in OWN or name.startswith("__"):  # pickle reads attributes before they exist
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)

    def __repr__(self) -> str:
        return f"Seeded({self.dataset!r})"


@contextmanager
def restored(dataset: Any) -> Iterator[list[Any]]:
    """The generators of a data set, which are restored: the loader may draw from them too."""
    own = list(generators_in(dataset).values())
    states = [(each, get(each)) for each in own if kind_of(each) != "epoch"]
    try:
        yield own
    finally:
        for each, state in states:
            put(each, state)


def seed_all(key: Any, own: Iterable[Any]) -> None:
    """Seed the generators of torch, Python and NumPy, and those of a data set, by a key."""
    text = repr(key).encode()
    seeds = [int.from_bytes(hashlib.blake2b(text, digest_size=8, salt=name).digest()) for name in STREAMS]
    torch.default_generator.manual_seed(seeds[0])  # torch.manual_seed would also seed the devices
    random.seed(seeds[1])
    np.random.seed([seeds[2] >> 32, seeds[2] % 2**32])
    seed_generators(own, seeds[3])


def next_draws(own: Iterable[Any]) -> list[Any]:
    """The next number of each generator that `seed_all` seeds, which shows whether numbers were drawn."""
    drawn = [torch.rand((), dtype=torch.float64).item(), random.random(), np.random.random_sample()]
    return [*drawn, *map(draw_one, own)]


def seeded(dataset: Any, options: Mapping[str, Any]) -> Any:
    """The data set, wrapped in `Seeded` if workers start again each epoch, so that draws can be repeated."""
    if not options.get("num_workers") or options.get("persistent_workers"):
        return dataset
    return dataset if dataset is None or isinstance(dataset, (IterableDataset, Seeded)) else Seeded(dataset)
