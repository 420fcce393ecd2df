"""A data set whose draws in a worker depend on the epoch and the batch alone."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from learner import Data
from learner.data.seeded import Seeded


class Noisy:
    """Items drawn from four streams."""

    name = "noise"

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        draws = [random.random(), np.random.rand(), self.rng.random()]
        return torch.cat([torch.tensor([index, *draws], dtype=torch.float64), torch.rand(1)])


def batches(dataset, seed=0, **options):
    torch.manual_seed(seed)
    return list(DataLoader(dataset, 3, **options))


def by_first_item(found):
    return {int(batch[0, 0]): batch for batch in found}


def test_in_the_main_process_nothing_changes():
    def draw(dataset):
        random.seed(1)
        np.random.seed(1)
        return torch.cat(batches(dataset))

    assert torch.equal(draw(Seeded(Noisy())), draw(Noisy()))


def test_a_batch_is_drawn_alike_whatever_number_of_workers_draws_it():
    one, two = (batches(Seeded(Noisy()), num_workers=n) for n in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_without_it_that_depends_on_the_workers():
    one, two = (batches(Noisy(), num_workers=n) for n in (1, 2))
    assert not torch.equal(torch.cat(one), torch.cat(two))


def test_batches_and_epochs_are_drawn_differently():
    torch.manual_seed(0)
    loader = DataLoader(Seeded(Noisy()), 3, num_workers=1)
    drawn = torch.cat([*loader, *loader])[:, 1:]
    assert len(drawn) == 24
    assert all(len(column.unique()) == 24 for column in drawn.T)


def test_single_items_are_seeded_too():
    torch.manual_seed(0)
    one = list(DataLoader(Seeded(Noisy()), None, num_workers=1))
    torch.manual_seed(0)
    two = list(DataLoader(Seeded(Noisy()), None, num_workers=2))
    assert torch.equal(torch.stack(one), torch.stack(two))


def test_what_gives_many_items_at_once_still_does():
    class Together(TensorDataset):
        def __getitems__(self, indices):
            return [("together", index) for index in indices]

    assert Seeded(Together(torch.arange(3)))[0] == (torch.tensor(0),)
    loader = DataLoader(Seeded(Together(torch.arange(4))), 2, collate_fn=list)
    assert list(loader) == [[("together", 0), ("together", 1)], [("together", 2), ("together", 3)]]


def test_attributes_are_those_of_the_data_set_also_after_pickling():
    seeded = pickle.loads(pickle.dumps(Seeded(Noisy())))
    assert (len(seeded), seeded.name, seeded.rng.random()) == (12, "noise", np.random.default_rng(0).random())
    seeded.name = "other"
    assert seeded.dataset.name == "other"
    with pytest.raises(AttributeError, match="nothing_such"):
        seeded.nothing_such  # noqa: B018


def test_a_spawned_worker_draws_as_a_forked_one():
    forked = batches(Seeded(Noisy()), num_workers=1, multiprocessing_context="fork")
    spawned = batches(Seeded(Noisy()), num_workers=1, multiprocessing_context="spawn")
    assert all(torch.equal(a, b) for a, b in zip(forked, spawned, strict=True))


def test_the_global_seeds_of_the_main_process_stay():
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    Seeded(TensorDataset(torch.arange(3)))[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_an_iterable_data_set_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(TypeError, match=r"Seeded\(Stream\): it needs a map-style data set"):
        Seeded(Stream())


def test_a_loader_with_workers_is_given_it_by_from_datasets():
    dataset = TensorDataset(torch.arange(6))
    data = Data.from_datasets(dataset, dataset, num_workers=1)
    assert isinstance(data.train.dataset, Seeded)
    assert isinstance(data.valid.dataset, Seeded)
    assert Data.from_datasets(Seeded(dataset), num_workers=1).train.dataset.dataset is dataset


def test_without_workers_or_with_persistent_ones_from_datasets_leaves_the_data_set_as_it_is():
    dataset = TensorDataset(torch.arange(6))
    assert Data.from_datasets(dataset).train.dataset is dataset
    assert Data.from_datasets(dataset, num_workers=1, persistent_workers=True).train.dataset is dataset


def test_the_same_items_with_other_companions_are_drawn_differently():
    sampler = RandomSampler(Noisy(), generator=torch.Generator().manual_seed(0))
    shuffled = batches(Seeded(Noisy()), sampler=sampler, num_workers=1)
    plain = by_first_item(batches(Seeded(Noisy()), num_workers=1))
    for first, batch in by_first_item(shuffled).items():
        assert first not in plain or not torch.equal(batch[0], plain[first][0])
