"""A rank's part of a `DataLoader`'s batches: it draws all indices, and fetches only its own items."""

from __future__ import annotations

import hashlib
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset, default_collate

from callbacks.core import draws
from learner.data.at_once import Collated
from learner.data.generators import generator_states
from learner.data.leaks import checked
from learner.data.loaders import holds_iterators
from learner.data.seeded import Part, Seeded
from learner.data.sharing.shares import Check, Note, Share, Stream
from learner.data.workers import Rest, is_torchs_own

TORCHS_OWN = "torch.utils.data."  # its samplers draw when they start, not from batch to batch
END = object()


def is_possible(loader: Any) -> bool:
    """Does this loader fetch items by indices that a sampler yields in batches?"""
    if not is_torchs_own(loader) or holds_iterators(loader.dataset):
        return False
    return loader._auto_collation or isinstance(loader.sampler, BatchSampler)


def batches_of(
    loader: DataLoader[Any],
    share: Share,
    note: Note,
    n_done: int,
    *,
    in_step: bool,
    stream: Stream,
    check: Check,
) -> tuple[Iterator[Any], int]:
    """A rank's batches of a pass after the first ones.

    Args:
        loader: for which `is_possible` is true.
        share: which part the rank takes.
        note: called with the numbers of items before each batch.
        n_done: the number of batches to skip.
        in_step: do all ranks need the same number of batches?
        stream: a function that returns a context in which all ranks draw the same random numbers.
        check: called with the first indices of all ranks.

    Returns:
        The batches, and the number of those that were there to skip.
    """
    can_draw = items_can_draw(loader)
    with stream():
        seed = seed_of(loader, share.epoch)
        indices = Indices(loader._index_sampler, share, n_done, seed, stream, in_step)
        with replaced(loader, indices, seed_items=can_draw):
            batches = iter(loader)
            n_skipped = indices.finish()
    is_isolated = can_draw and not loader.num_workers
    return noted(batches, indices, note, check, is_isolated=is_isolated), n_skipped


def noted(
    batches: Iterator[Any], indices: Indices, note: Note, check: Check, *, is_isolated: bool
) -> Iterator[Any]:
    """Yield the batches, and note the numbers of items before each.

    Args:
        batches: of the rank.
        indices: with the numbers of items of the batches that are being fetched.
        note: called with these numbers.
        check: called with the first indices of all ranks.
        is_isolated: must fetching a batch not change the random states of this process?
    """
    source = checked(batches)
    while True:
        with draws.undrawn() if is_isolated else nullcontext():
            batch = next(source, END)
        if batch is END:
            return
        if indices.first is not None:
            check(indices.first)
            indices.first = None
        note(*indices.notes.popleft())
        yield batch


class Indices:
    """A sampler that yields a rank's parts of the batches of indices of another one.

    It does not hold the loader, which would then stop its workers only at a garbage collection.

    Args:
        sampler: of the user.
        share: which part the rank takes.
        n_done: the number of steps to skip, until `finish` is called.
        seed: of the pass, for the items.
        stream: a function that returns a context in which all ranks draw the same random numbers.
        in_step: do all ranks need the same number of batches?
    """

    def __init__(self, sampler: Any, share: Share, n_done: int, seed: int, stream: Stream, in_step: bool):
        self.sampler, self.share, self.n_done = sampler, share, n_done
        self.seed, self.stream, self.in_step = seed, stream, in_step
        self.first: list[Any] | None = None  # the indices of the first step, until they are checked
        self.notes: deque[tuple[int | None, int | None]] = deque()

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.share.group)

    def __iter__(self) -> Iterator[Part]:
        with self.stream():
            groups = self.share.groups_of(iter(self.sampler))
        self.rest = Rest(self._placed(groups), self.n_done)  # loaders with workers use the second of two
        self.notes.clear()
        return self._parts(self.rest)

    def finish(self) -> int:
        """Skip the first steps now, if they are not skipped yet, and none afterwards.

        Returns:
            The number of skipped steps.
        """
        rest, self.n_done = self.rest, 0
        del self.rest
        rest.begin()
        return rest.n_skipped

    def _placed(self, groups: Iterator[list[Any]]) -> Iterator[tuple[int, list[list[Any]]]]:
        """Each group, and the position of its first item in the pass."""
        samplers = (self.sampler, getattr(self.sampler, "sampler", self.sampler))
        draws_later = not all(type(each).__module__.startswith(TORCHS_OWN) for each in samplers)
        position, stream = 0, self.stream
        while True:
            with stream():
                group = next(groups, None)
            if group is None:
                return
            stream = self.stream if draws_later else nullcontext
            lists = [each if type(each) is list else list(each) for each in group]
            yield position, lists
            position += sum(map(len, lists))

    def _parts(self, groups: Iterable[tuple[int, list[list[Any]]]]) -> Iterator[Part]:
        """The rank's part of each group."""
        for number, (start, group) in enumerate(groups):
            if number == 0:
                self.first = group
            sizes = [len(each) for each in group]
            taken = self.share.of(sizes, in_step=self.in_step)
            if taken is not None:
                self.notes.append((taken.n_here, taken.n_everywhere))
                first = start + sum(sizes[: taken.number]) + taken.start
                yield Part(group[taken.number][taken.start : taken.stop], self.seed, first)


@contextmanager
def replaced(loader: DataLoader[Any], indices: Any, *, seed_items: bool) -> Iterator[None]:
    """Replace what a loader starts a pass with: its sampler, and the data set by one that seeds each item."""
    name = "batch_sampler" if loader._auto_collation else "sampler"  # as DataLoader._index_sampler does
    held = vars(loader)  # DataLoader refuses assignments
    kept = {each: held[each] for each in (name, "dataset", "in_order")}
    dataset = held["dataset"]
    held |= {name: indices, "in_order": True}  # the ranks take parts of the same batch
    if seed_items and not isinstance(dataset, Seeded):
        held["dataset"] = Seeded(dataset)
    running: Any = loader._iterator  # of persistent workers, which keep their own sampler
    if running is not None:
        running._index_sampler = indices
    try:
        yield
    finally:
        held |= kept
        if (running := loader._iterator) is not None:
            running._index_sampler = kept[name]


def items_can_draw(loader: DataLoader[Any]) -> bool:
    """Can the items or their batches depend on random numbers? Those of plain tensors cannot."""
    dataset: Any = loader.dataset
    if type(dataset) is Collated:
        return False
    while type(dataset) in (Subset, Seeded):
        dataset = dataset.dataset
    return type(dataset) is not TensorDataset or loader.collate_fn is not default_collate


def seed_of(loader: DataLoader[Any], epoch: int) -> int:
    """A seed for the items of a pass, from the number of the epoch and the random states at its start."""
    states = {
        "random": draws.take(("torch", "python", "numpy")),
        "own": generator_states(loader),
        "epoch": epoch,
    }
    return int.from_bytes(hashlib.blake2b(as_bytes(states), digest_size=8).digest())


def as_bytes(states: Any) -> bytes:
    """Random states as bytes, equal for equal states."""
    if isinstance(states, dict):
        return b"".join(as_bytes(each) for item in sorted(states.items()) for each in item)
    if isinstance(states, (list, tuple)):
        return b"".join(map(as_bytes, states))
    return states.numpy().tobytes() if isinstance(states, Tensor) else pickle.dumps(states)
