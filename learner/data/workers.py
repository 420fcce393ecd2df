"""Steer a `DataLoader`: leave batches out by their indices, and begin persistent workers as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from callbacks.core import draws
from learner.data.generators import generator_states, set_generator_states
from learner.data.seeded import Seeded


def is_torchs_own(loader: Any) -> bool:
    """A `DataLoader` over a map-style data set, which iterates as torch's does."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    own = ("__iter__", "_get_iterator", "_index_sampler")
    return all(getattr(type(loader), name) is getattr(DataLoader, name) for name in own)


def skip(loader: DataLoader[Any], n_done: int) -> tuple[Iterator[Any], int]:
    """Draw the indices of the first batches, and none of their items.

    Returns:
        The other batches, and how many were left out: fewer where there are no more.
    """
    indices = Skipping(loader._index_sampler, n_done)
    if loader._iterator is not None:
        loader._iterator._index_sampler = indices  # persistent workers keep theirs
    with in_place_of_sampler(loader, indices):
        rest = iter(loader)
    return rest, indices.finish()


@contextmanager
def in_place_of_sampler(loader: DataLoader[Any], indices: Any) -> Iterator[None]:
    """Let the iterator that a loader makes meanwhile take its indices from something else."""
    name = "batch_sampler" if loader._auto_collation else "sampler"  # as DataLoader._index_sampler chooses
    kept = vars(loader)[name]
    vars(loader)[name] = indices  # DataLoader refuses to set it the usual way
    try:
        yield
    finally:
        vars(loader)[name] = kept


class Skipping:
    """A sampler that skips its first indices, until `finish` is called.

    Args:
        sampler: yields indices, or lists of them.
        n_done: the number of skipped ones.
    """

    def __init__(self, sampler: Any, n_done: int):
        self.sampler, self.n_done = sampler, n_done

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # Made at once, as samplers may draw then. Loaders with workers ask twice, and use the second.
        self.last = Rest(iter(self.sampler), self.n_done)
        return self.last

    def finish(self) -> int:
        """Leave out now what is not yet left out, and nothing from now on.

        Returns:
            How many were left out.
        """
        self.last.begin()
        self.n_done = 0
        return self.last.n_skipped


class Rest:
    """What comes after the first indices."""

    def __init__(self, indices: Iterator[Any], n_done: int):
        self.indices, self.n_done, self.n_skipped = indices, n_done, 0

    def begin(self) -> None:
        """Leave out the first, once."""
        n_done, self.n_done = self.n_done, 0
        self.n_skipped += sum(1 for _ in islice(self.indices, n_done))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.n_done:
            self.begin()
        return next(self.indices)


# Persistent workers draw one base seed for all epochs. An epoch that is the first of another process must
# neither draw it again, which would shift all later draws, nor give `Seeded` data sets another.


def base_seed_of(loader: Any) -> int | None:
    """The base seed of persistent workers that have begun."""
    return loader._iterator._base_seed if keeps_workers(loader) and loader._iterator is not None else None


def put_base_seed(loader: Any, base_seed: int | None) -> None:
    """Let persistent workers be as they were: begun with a base seed, or not yet begun."""
    if keeps_workers(loader) and base_seed != base_seed_of(loader):
        loader._iterator = None if base_seed is None else Asleep(loader, base_seed)


def keeps_workers(loader: Any) -> bool:
    """A `DataLoader` with persistent workers, which iterates as torch's does."""
    own = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    return bool(own and loader.persistent_workers and loader.num_workers)


class Asleep:
    """In the place of a loader's persistent workers: begins them when a pass begins, drawing nothing.

    Args:
        loader: a loader without workers as yet.
        base_seed: the one that they had.
    """

    def __init__(self, loader: DataLoader[Any], base_seed: int):
        self._base_seed, self._index_sampler = base_seed, loader._index_sampler

    def _reset(self, loader: DataLoader[Any]) -> None:
        """What `DataLoader.__iter__` calls on workers that it has."""
        states, own = draws.take(), generator_states(loader)
        dataset: Any = loader.dataset
        if isinstance(dataset, Seeded):
            dataset.base_seed = self._base_seed
        try:
            with in_place_of_sampler(loader, ()):  # nothing is fetched yet
                workers: Any = loader._get_iterator()
        finally:
            if isinstance(dataset, Seeded):
                dataset.base_seed = None
        draws.put(states)
        set_generator_states(loader, own)
        workers._base_seed, workers._index_sampler = self._base_seed, self._index_sampler
        loader._iterator = workers
        workers._reset(loader)


def pass_the_end(loader: Any) -> None:
    """Lead a `StatefulDataLoader` that was put to the end of a pass to the beginning of the next.

    It would do that by itself, but draw once more than one that has not been saved in between.
    """
    state = getattr(loader, "next_iter_state", None)
    if (
        not isinstance(loader, DataLoader)
        or not isinstance(state, dict)
        or not state.get("_iterator_finished")
    ):
        return
    states, own = draws.take(), generator_states(loader)
    ended = loader._get_iterator()  # which takes the state
    if loader.persistent_workers and loader.num_workers:
        loader._iterator = ended
    draws.put(states)
    set_generator_states(loader, own)
