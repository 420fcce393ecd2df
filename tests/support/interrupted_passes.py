"""Loaders of each kind, a run over one, and the same run resumed with a new loader."""

from __future__ import annotations

import functools
import itertools
import random
from collections import deque

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from learner import TensorLoader
from learner.data.seeded import Seeded
from learner.files.plain import from_plain, to_plain
from learner.passes import positions

N_ITEMS, BATCH_SIZE, N_EPOCHS = 41, 3, 3
# The epoch, and the number of batches done in it; 14 is a whole pass.
CUTS = ((0, 1), (0, 7), (1, 1), (1, 12), (1, 13), (2, 5), (2, 14))
FEW = ((0, 1), (1, 12), (2, 14))


class Noisy(Dataset):
    """Items with noise from every generator; it counts, across processes, how often each is fetched."""

    def __init__(self, transform=None):
        self.fetched = torch.zeros(N_ITEMS, dtype=torch.int64).share_memory_()
        self.rng, self.transform = np.random.default_rng(5), transform

    def __len__(self):
        return N_ITEMS

    def __getitem__(self, index):
        self.fetched[index] += 1
        noise = [random.random(), np.random.rand(), self.rng.random(), torch.rand(()).item()]
        return torch.tensor([index, *noise, self.transform() if self.transform else 0.0], dtype=torch.float64)


class Plain(Noisy):
    """Items without noise."""

    def __getitem__(self, index):
        self.fetched[index] += 1
        return torch.tensor([index])


class Stream(IterableDataset):
    """A stream of items in a fixed order."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for item in range(first, N_ITEMS, step):
            yield torch.tensor([item, random.random(), np.random.rand(), torch.rand(()).item()])


class Steady(IterableDataset):
    """A stream with its own generator."""

    def __init__(self):
        self.rng = random.Random(3)

    def __iter__(self):
        for item in range(N_ITEMS):
            yield torch.tensor([item, self.rng.random()])


class Eager:
    """A sampler that draws from torch's global state when its iterator is created."""

    def __iter__(self):
        return iter(torch.randperm(N_ITEMS).tolist())

    def __len__(self):
        return N_ITEMS


class Lazy(Eager):
    """A sampler that draws each index from torch's global state when it is needed."""

    def __iter__(self):
        for _ in range(N_ITEMS):
            yield int(torch.randint(N_ITEMS, ()))


class Doubling(DataLoader):
    """A loader that overrides `__iter__`."""

    def __iter__(self):
        for batch in super().__iter__():
            yield 2 * batch


def loader_over(dataset=None, **options):
    options = {"batch_size": BATCH_SIZE, **options}
    return DataLoader(Noisy() if dataset is None else dataset, **options)


def generated(**kind):
    """A sampler with a generator, by the name of its class."""
    ((name, options),) = kind.items()
    generator = torch.Generator().manual_seed(7)
    return {"Random": RandomSampler, "Subset": SubsetRandomSampler, "Weighted": WeightedRandomSampler}[name](
        **options, generator=generator
    )


def several_rngs():
    """A transform with generators in typical places."""
    numbers, legacy = random.Random(1), np.random.RandomState(2)

    def draw(generator):
        return numbers.random() + legacy.rand() + torch.rand((), generator=generator).item()

    return functools.partial(draw, generator=torch.Generator().manual_seed(4))


SKIPPED = {
    "in order": loader_over,
    "shuffled": lambda: loader_over(shuffle=True),
    "shuffled, a generator": lambda: loader_over(shuffle=True, generator=torch.Generator().manual_seed(1)),
    "the last left out": lambda: loader_over(shuffle=True, drop_last=True),
    "single items": lambda: loader_over(batch_size=None, sampler=RandomSampler(range(14))),
    "single items, eager": lambda: loader_over(batch_size=None, sampler=Eager()),
    "a subset": lambda: loader_over(sampler=SubsetRandomSampler(range(40))),
    "a subset, a generator": lambda: loader_over(sampler=generated(Subset={"indices": range(40)})),
    "weighted": lambda: loader_over(sampler=WeightedRandomSampler(torch.arange(1.0, 42), 41)),
    "replacement": lambda: loader_over(sampler=RandomSampler(range(41), replacement=True)),
    "replacement, a generator": lambda: loader_over(
        sampler=generated(Random={"data_source": range(41), "replacement": True})
    ),
    "an eager sampler": lambda: loader_over(sampler=Eager()),
    "a lazy sampler": lambda: loader_over(sampler=Lazy()),
    "a batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(range(41)), 3, drop_last=False)
    ),
    "a list of batches": lambda: DataLoader(Noisy(), batch_sampler=[[n, n + 1] for n in range(14)]),
    "generators everywhere": lambda: loader_over(Noisy(several_rngs()), shuffle=True),
    "seeded, no workers": lambda: loader_over(Seeded(Noisy()), shuffle=True),
}
WORKERS = {
    "seeded": lambda: loader_over(Seeded(Noisy()), shuffle=True, num_workers=2),
    "seeded, a generator": lambda: loader_over(
        Seeded(Noisy()), shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(1)
    ),
    "seeded, single items": lambda: loader_over(
        Seeded(Noisy()), batch_size=None, sampler=RandomSampler(range(14)), num_workers=1
    ),
    "seeded, eager sampler": lambda: loader_over(Seeded(Noisy()), sampler=Eager(), num_workers=2),
    "seeded, persistent": lambda: loader_over(
        Seeded(Noisy()), shuffle=True, num_workers=2, persistent_workers=True
    ),
    "no noise, persistent": lambda: loader_over(
        Plain(), shuffle=True, num_workers=2, persistent_workers=True
    ),
}
REPLAYED = {
    "workers": lambda: loader_over(shuffle=True, num_workers=2),
    "workers over a stream": lambda: loader_over(Stream(), num_workers=2),
    "a stream with a generator": lambda: loader_over(Steady()),
    "an __iter__ of its own": lambda: Doubling(Plain(), BATCH_SIZE, shuffle=True),
    "a function": lambda: function_of(np.random.default_rng(6)),
}
WHOLE = {
    "tensors": lambda: TensorLoader([torch.arange(41)], 3, shuffle=True, seed=2),
    "tensors in order": lambda: TensorLoader([torch.arange(42)], 3, drop_last=True),
    "a list": lambda: [torch.tensor([n]) for n in range(14)],
    "a tuple": lambda: tuple(torch.tensor([n]) for n in range(14)),
    "a range": lambda: range(14),
    "a deque": lambda: deque(torch.tensor([n]) for n in range(14)),
}


def function_of(rng):
    def batches():
        for _ in range(14):
            yield torch.tensor([rng.random()])

    return batches


def scramble(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def give(loader):
    return loader() if callable(loader) and not hasattr(loader, "__iter__") else loader


def train_on(batches, seen, after=lambda: None):
    """Read batches like a training that draws dropout masks between them."""
    for batch in batches:
        whole = torch.stack(batch) if isinstance(batch, tuple) else torch.as_tensor(batch)
        seen.append((whole.double().flatten(), torch.rand(2), random.random(), np.random.rand()))
        after()
    return seen


def whole_run(make):
    """All batches of a run, and the positions that a checkpoint after some of them would hold."""
    scramble(0)
    loader, epochs, saved = make(), [], {}
    for epoch in range(N_EPOCHS):
        mark, seen = to_plain(positions.mark(loader), ""), []

        def save(epoch=epoch, mark=mark, seen=seen):
            if (epoch, len(seen)) in CUTS:
                saved[epoch, len(seen)] = mark, to_plain(positions.now(loader), "")

        epochs.append(train_on(give(loader), seen, save))
        saved[epoch] = to_plain((positions.generator_states(loader), torch.get_rng_state()), "")
    return epochs, saved


def rest_of_pass(loader, batches, mark, now, n_done):
    """The batches after the first ones of an interrupted pass."""
    return positions.resume(loader, batches, mark, now, {"n_done": n_done})[1]


def resumed(make, mark, now, epoch, n_done):
    """The rest of a run with a new loader, after an interruption."""
    scramble(99)
    loader = make()
    rest = rest_of_pass(loader, lambda: give(loader), from_plain(mark), from_plain(now), n_done)
    epochs = [train_on(rest, [])]
    for _ in range(epoch + 1, N_EPOCHS):
        positions.mark(loader)
        epochs.append(train_on(give(loader), []))
    return epochs


def assert_same(left, right):
    assert [len(epoch) for epoch in left] == [len(epoch) for epoch in right]
    for batch, other in zip(itertools.chain(*left), itertools.chain(*right), strict=True):
        for part, counterpart in zip(batch, other, strict=True):
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(counterpart))


def same(left, right):
    """Are two states of plain data equal?"""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def assert_resumes(make, interruptions):
    epochs, saved = whole_run(make)
    for epoch, n_done in interruptions:
        if (epoch, n_done) in saved:
            expected = [epochs[epoch][n_done:], *epochs[epoch + 1 :]]
            assert_same(resumed(make, *saved[epoch, n_done], epoch, n_done), expected)


def rest_of_one(make, n_done=5):
    """A new loader, and the rest of a pass over it."""
    _, saved = whole_run(make)
    scramble(99)
    loader = make()
    rest = rest_of_pass(loader, lambda: loader, *map(from_plain, saved[2, n_done]), n_done)
    return loader, rest
