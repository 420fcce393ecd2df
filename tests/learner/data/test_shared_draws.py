"""Each item draws by its position in the pass alone, on any number of ranks and workers."""

from __future__ import annotations

import random
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from ranks.shared_passes import Noisy, noisy_loader, parts, whole
from torch.utils.data import Subset, default_collate

from callbacks.core import draws
from learner import Data
from learner.data.seeded import Seeded
from learner.data.sharing import Share, Shared


class AtOnce(Noisy):
    """The same, with a method for several items."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def items(make, size, n_passes=2, **options):
    """All items of each pass, in the order of one process."""
    ranks = [parts(make, Share(rank, size), n_passes=n_passes, **options) for rank in range(size)]
    return [
        torch.cat(
            [
                ranks[rank][n][step][2][0][: ranks[rank][n][step][0]]
                for step in range(len(ranks[0][n]))
                for rank in range(size)
            ]
        )
        for n in range(n_passes)
    ]


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "dataset", [Noisy, AtOnce, lambda: Seeded(Noisy()), lambda: Subset(Noisy(), range(9))]
)
@pytest.mark.parametrize("generator", [False, True])
def test_items_draw_the_same_on_any_number_of_ranks(dataset, generator):
    make = partial(noisy_loader, dataset, generator=generator)
    expected = items(make, 1)
    for size in (2, 3, 4, 8):
        assert_same(items(make, size), expected)
    noise = torch.cat(expected)
    noise = noise[noise[:, 0] % 3 > 0][:, 1:]
    assert all(len(column.unique()) == len(noise) for column in noise.T)  # in other passes too


def test_workers_draw_what_the_main_process_draws():
    expected = items(noisy_loader, 1)
    assert_same(items(partial(noisy_loader, num_workers=2), 1), expected)
    persistent = partial(noisy_loader, num_workers=1, persistent_workers=True)
    assert_same(items(persistent, 2), items(persistent, 1))


def test_the_order_is_that_of_one_process():
    for found, expected in zip(items(noisy_loader, 3, 1), whole(noisy_loader), strict=True):
        assert torch.equal(found[:, 0], torch.cat([batch[0] for batch in expected])[:, 0])


def test_persistent_workers_draw_differently_in_each_pass():
    one, two = items(partial(noisy_loader, num_workers=1, persistent_workers=True, shuffle=False), 1)
    assert torch.equal(one[:, 0], two[:, 0])
    assert not torch.equal(one, two)


def test_workers_stop_when_their_loader_is_dropped():
    loader = noisy_loader(num_workers=1, persistent_workers=True)
    list(Shared(loader, Share(0, 2), lambda *_: None, Data(loader)))
    workers, dropped = loader._iterator._workers, weakref.ref(loader)
    del loader  # without a garbage collection, which might happen in another worker
    assert dropped() is None
    assert not any(worker.is_alive() for worker in workers)


def noisy_collate(batch):
    torch.rand(3), random.random(), np.random.rand()
    return default_collate(batch)


@pytest.mark.parametrize("collate", [None, noisy_collate])
def test_the_streams_of_the_process_stay(collate):
    seen = []
    parts(partial(noisy_loader, collate_fn=collate), Share(0, 2), model=lambda: seen.append(draws.take()))
    first, *others = seen
    assert others
    for each in others:
        assert torch.equal(each["torch"], first["torch"])
        assert not draws.differ("python", each["python"], first["python"])
        assert not draws.differ("numpy", each["numpy"], first["numpy"])
