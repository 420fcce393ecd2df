"""Loaders of each kind, and what each rank gets of a pass over them."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from callbacks.core import draws
from callbacks.distributed.random_streams import Streams
from learner import Blocks, Data, TensorLoader
from learner.data.seeded import Seeded
from learner.data.seeds import seed_everything
from learner.data.sharing import Share, Shared

SIZES = (1, 2, 3, 4, 8)


class Plain(Dataset):
    """Items without random draws."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int):
        return torch.tensor([index, 2 * index]), index


class Lazy(Sampler):
    """A sampler that draws each index when it is asked for it, from three generators."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def __len__(self) -> int:
        return self.n_items

    def __iter__(self):
        for _ in range(self.n_items):
            drawn = random.random() + np.random.rand() + torch.rand(()).item()
            yield int(drawn / 3 * self.n_items)


class Grouped(Sampler):
    """A batch sampler whose batches have different sizes."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def __len__(self) -> int:
        return len(list(self.sizes()))

    def sizes(self):
        left, size = self.n_items, 1
        while left:
            yield min(size, left)
            left, size = left - min(size, left), size % 5 + 1

    def __iter__(self):
        order = torch.randperm(self.n_items).tolist()
        for size in self.sizes():
            yield tuple(order[:size])
            order = order[size:]


class Items(IterableDataset):
    """A stream of items."""

    def __init__(self, n_items: int):
        self.n_items = n_items

    def __iter__(self):
        return ((torch.tensor([n, 2 * n]), n) for n in range(self.n_items))


def tensors(n_items: int):
    return torch.arange(2 * n_items).view(n_items, 2), torch.arange(n_items)


def generated(n_items: int, size: int):
    for batch in torch.randperm(n_items).split(size):
        yield torch.stack([batch, torch.rand(len(batch)).mul(1000).long()], 1), batch


class Noisy(Dataset):
    """Items with noise from every generator; some draw nothing, and some more than others."""

    def __init__(self):
        self.rng, self.own = np.random.default_rng(0), torch.Generator().manual_seed(3)

    def __len__(self):
        return 22

    def __getitem__(self, index):
        noise = [0.0] * 5
        for _ in range(index % 3):
            both = [torch.rand(()).item(), torch.rand((), generator=self.own).item()]
            noise = [random.random(), np.random.rand(), self.rng.random(), *both]
        return torch.tensor([index, *noise], dtype=torch.float64), index


def noisy_loader(dataset=Noisy, *, generator=False, **options):
    made = dataset()
    # the sampler may draw from the generator that the items draw from
    own = {"generator": getattr(made, "own", None)} if generator else {}
    return DataLoader(made, 5, **{"shuffle": True, **own, **options})


LOADERS = {
    "tensors": lambda n: TensorLoader(tensors(n), 5, shuffle=True, seed=3),
    "tensors in order": lambda n: TensorLoader(tensors(n), 5),
    "tensors without the last": lambda n: TensorLoader(tensors(n), 5, shuffle=True, seed=3, drop_last=True),
    "tensors in blocks": lambda n: TensorLoader(tensors(n), 5, shuffle=True, seed=3, order=Blocks(3, 2)),
    "a tensor data set": lambda n: DataLoader(TensorDataset(*tensors(n)), 5, shuffle=True),
    "a part of a tensor data set": lambda n: DataLoader(Subset(TensorDataset(*tensors(2 * n)), range(n)), 5),
    "items": lambda n: DataLoader(Plain(n), 5, shuffle=True),
    "items without the last": lambda n: DataLoader(Plain(n), 5, shuffle=True, drop_last=True),
    "weighted": lambda n: DataLoader(Plain(n), 5, sampler=WeightedRandomSampler(torch.arange(n) + 1.0, n)),
    "with replacement": lambda n: DataLoader(
        Plain(n), 5, sampler=RandomSampler(range(n), replacement=True, num_samples=2 * n)
    ),
    "of a generator": lambda n: DataLoader(
        Plain(n), 5, shuffle=True, generator=torch.Generator().manual_seed(7)
    ),
    "a subset": lambda n: DataLoader(Plain(2 * n), 5, sampler=SubsetRandomSampler(range(n))),
    "a lazy sampler": lambda n: DataLoader(Plain(n), 5, sampler=Lazy(n)),
    "grouped": lambda n: DataLoader(Plain(n), batch_sampler=Grouped(n)),
    "batches as indices": lambda n: DataLoader(
        TensorDataset(*tensors(n)), None, sampler=BatchSampler(RandomSampler(range(n)), 5, False)
    ),
    "seeded": lambda n: DataLoader(Seeded(Plain(n)), 5, shuffle=True),
    "an iterable data set": lambda n: DataLoader(Items(n), 5),
    "a list": lambda n: list(zip(*(each.split(5) for each in tensors(n)), strict=True)),
    "a function": lambda n: partial(generated, n, 5),
    "a function with a loader": lambda n: lambda: DataLoader(Plain(n), 5, shuffle=True),
}


def parts(make, share: Share, *, training=True, n_passes=1, model=None, **options):
    """For each pass and batch: what a rank got, and what was noted."""
    seed_everything(1)
    data, found = Data(make(), **options), []
    streams = Streams(share.rank, draws.take())  # the model draws other numbers on each rank
    for epoch in range(n_passes):
        noted: list[tuple] = []
        with streams.drawing_data():
            batches = data.batches(data.train)
        of_pass = Shared(
            batches,
            share._replace(epoch=epoch),
            lambda *numbers, noted=noted: noted.append(numbers),
            data,
            in_step=training,
            stream=streams.drawing_data,
        )
        found.append([])
        for batch in of_pass:
            found[-1].append((*noted[-1], batch))
            if model is None:
                torch.rand(share.rank), random.random(), np.random.rand()
            else:
                model()
        assert len(noted) == len(found[-1])
    return found


def whole(make, n_passes=1, **options):
    """The batches of one process, by pass."""
    seed_everything(1)
    data = Data(make(), **options)
    return [list(data.batches(data.train)) for _ in range(n_passes)]


def joined(some):
    return [torch.cat(columns) for columns in zip(*some, strict=True)]


def check_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
