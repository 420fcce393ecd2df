"""Skip batches of a `DataLoader` by their indices, and restart persistent workers with their old seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from learner.data.generators import undrawn
from learner.data.seeded import Seeded


def is_torchs_own(loader: Any) -> bool:
    """Is this a `DataLoader` over a map-style data set, with the iteration of torch?"""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    own = ("__iter__", "_get_iterator", "_index_sampler")
    return all(getattr(type(loader), name) is getattr(DataLoader, name) for name in own)


def skip(loader: Any, n_done: int) -> tuple[Iterator[Any], int]:
    """Draw the indices of the first batches without fetching their items.

    Returns:
        The other batches, and the number of skipped batches, which is below `n_done` if there are fewer.
    """
    indices = Skipping(loader._index_sampler, n_done)
    if loader._iterator is not None:
        loader._iterator._index_sampler = indices  # persistent workers keep their own sampler
    with sampler_replaced(loader, indices):
        rest = iter(loader)
    return rest, indices.finish()


@contextmanager
def sampler_replaced(loader: DataLoader[Any], indices: Any) -> Iterator[None]:
    """Replace the sampler of a loader within the block."""
    name = "batch_sampler" if loader._auto_collation else "sampler"  # as DataLoader._index_sampler does
    kept = vars(loader)[name]
    vars(loader)[name] = indices  # DataLoader refuses an assignment
    try:
        yield
    finally:
        vars(loader)[name] = kept


class Skipping:
    """A sampler that skips its first indices, until `finish` is called.

    Args:
        sampler: yields indices, or lists of them.
        n_done: the number of indices to skip.
    """

    def __init__(self, sampler: Any, n_done: int):
        self.sampler, self.n_done = sampler, n_done

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # Created now, because samplers may draw here. Loaders with workers call it twice and use the second.
        self.last = Rest(iter(self.sampler), self.n_done)
        return self.last

    def finish(self) -> int:
        """Skip the first indices now, if they are not skipped yet, and none afterwards.

        Returns:
            The number of skipped indices.
        """
        self.last.begin()
        self.n_done = 0
        return self.last.n_skipped


class Rest:
    """An iterator over the indices after the first ones."""

    def __init__(self, indices: Iterator[Any], n_done: int):
        self.indices, self.n_done, self.n_skipped = indices, n_done, 0

    def begin(self) -> None:
        """Skip the first indices, once."""
        n_done, self.n_done = self.n_done, 0
        self.n_skipped += sum(1 for _ in islice(self.indices, n_done))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.n_done:
            self.begin()
        return next(self.indices)


# Persistent workers draw one base seed for all epochs. The first epoch of another process must not draw it
# again, which would shift all later draws, and `Seeded` data sets must get the same base seed.


def base_seed_of(loader: Any) -> int | None:
    """The base seed of persistent workers that have started; None if there are none."""
    return loader._iterator._base_seed if keeps_workers(loader) and loader._iterator is not None else None


def put_base_seed(loader: Any, base_seed: int | None) -> None:
    """Restore the state of persistent workers: started with a base seed, or not started."""
    if keeps_workers(loader) and base_seed != base_seed_of(loader):
        loader._iterator = None if base_seed is None else WaitingWorkers(loader, base_seed)


def keeps_workers(loader: Any) -> bool:
    """Is this a `DataLoader` with persistent workers, with the iteration of torch?"""
    own = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    return bool(own and loader.persistent_workers and loader.num_workers)


class WaitingWorkers:
    """A placeholder for a loader's persistent workers, which starts them at the next pass without a draw.

    Args:
        loader: a loader whose workers have not started.
        base_seed: the seed of the workers in the earlier process.
    """

    def __init__(self, loader: DataLoader[Any], base_seed: int):
        self._base_seed, self._index_sampler = base_seed, loader._index_sampler

    def _reset(self, loader: DataLoader[Any]) -> None:
        """Start the workers; `DataLoader.__iter__` calls this method of existing workers."""
        dataset: Any = loader.dataset
        if isinstance(dataset, Seeded):
            dataset.base_seed = self._base_seed
        try:
            with undrawn(loader), sampler_replaced(loader, ()):  # nothing is fetched yet
                workers: Any = loader._get_iterator()
        finally:
            if isinstance(dataset, Seeded):
                dataset.base_seed = None
        workers._base_seed, workers._index_sampler = self._base_seed, self._index_sampler
        loader._iterator = workers
        workers._reset(loader)


def pass_the_end(loader: Any) -> None:
    """Advance a `StatefulDataLoader` that was restored at the end of a pass to the start of the next one.

    It would do this itself, but with one more draw than a loader that was not restored.
    """
    state = getattr(loader, "next_iter_state", None)
    has_ended = isinstance(state, dict) and state.get("_iterator_finished")
    if not has_ended or not isinstance(loader, DataLoader):
        return
    with undrawn(loader):
        ended = loader._get_iterator()  # this consumes the state
    if loader.persistent_workers and loader.num_workers:
        loader._iterator = ended
