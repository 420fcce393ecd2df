"""A `DataLoader` over tensors has the same batches when it is read in batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from learner import Data, Learner
from learner.data.at_once import at_once

N_ITEMS = 23


def dataset() -> TensorDataset:
    draws = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(N_ITEMS, 3, 2, generator=draws),
        torch.randint(9, (N_ITEMS,), generator=draws),
        torch.randn(N_ITEMS, generator=draws) > 0,
    )


def parts() -> Subset:
    return random_split(dataset(), [0.6, 0.4], torch.Generator().manual_seed(1))[0]


class Backwards:
    """A sampler of the user's: batches of any size."""

    def __iter__(self):
        yield from ([5, 4, 3], [2], [1, 0, -1, 22])

    def __len__(self):
        return 3


class OfTensors:
    """A sampler that returns indices as tensors."""

    def __iter__(self):
        yield from torch.randperm(N_ITEMS)

    def __len__(self):
        return N_ITEMS


LOADERS = {
    "in order": lambda: DataLoader(dataset(), 4),
    "shuffled": lambda: DataLoader(dataset(), 4, shuffle=True),
    "drop_last": lambda: DataLoader(dataset(), 4, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(dataset(), 4, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "subset": lambda: DataLoader(parts(), 4, shuffle=True),
    "subset of a subset": lambda: DataLoader(Subset(parts(), [7, 0, 3, 3]), 3),
    "weighted": lambda: DataLoader(
        dataset(), 4, sampler=WeightedRandomSampler(torch.arange(N_ITEMS) + 1.0, 30)
    ),
    "batch sampler": lambda: DataLoader(dataset(), batch_sampler=Backwards()),
    "batches of a sampler": lambda: DataLoader(
        dataset(), batch_sampler=BatchSampler(range(0, N_ITEMS, 2), 5, drop_last=False)
    ),
    "indices that are tensors": lambda: DataLoader(dataset(), 4, sampler=OfTensors()),
    "one tensor": lambda: DataLoader(TensorDataset(torch.arange(7.0)), 2),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_and_random_numbers_are_those_of_the_loader(kind):
    found = []
    for way in (lambda loader: loader, at_once):
        loader = LOADERS[kind]()
        torch.manual_seed(7)
        passes = [list(way(loader)) for _ in range(2)]
        found.append((passes, torch.get_rng_state(), loader.generator and loader.generator.get_state()))
        assert (way(loader) is loader) == (way is not at_once)
    (ours, *draws), (theirs, *their_draws) = found
    for one, other in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert type(one) is type(other) is list
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert [each.stride() for each in one] == [each.stride() for each in other]
    torch.testing.assert_close(draws, their_draws, rtol=0, atol=0)


class OwnLoader(DataLoader):
    """A subclass of `DataLoader`."""


class Augmented(TensorDataset):
    def __getitem__(self, index):
        return tuple(each + 1 for each in super().__getitem__(index))


class Reversed(Subset):
    def __getitem__(self, idx):
        return super().__getitem__(len(self) - 1 - idx)

    def __getitems__(self, indices):
        return [self[each] for each in indices]


IMAGES = torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)
OTHERS = {
    "subclass": lambda: OwnLoader(dataset(), 4),
    "data set of the user's": lambda: DataLoader(Augmented(torch.ones(4)), 2),
    "subset of the user's": lambda: DataLoader(Reversed(dataset(), [0, 1]), 2),
    "collate_fn": lambda: DataLoader(dataset(), 4, collate_fn=lambda items: default_collate(items)),
    "workers": lambda: DataLoader(dataset(), 4, num_workers=1),
    "item by item": lambda: DataLoader(dataset(), None),
    "channels last": lambda: DataLoader(TensorDataset(IMAGES), 2),
    "gradients": lambda: DataLoader(TensorDataset(torch.ones(4, requires_grad=True)), 2),
    "no device": lambda: DataLoader(TensorDataset(torch.ones(4, device="meta")), 2),
    "a list": lambda: [torch.ones(2)],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_loader_stays_as_it_is(kind):
    loader = OTHERS[kind]()
    assert at_once(loader) is loader


def test_a_fit_takes_batches_at_once_and_ends_with_the_bits_of_one_that_does_not():
    weights, asked = [], []

    class Asked(TensorDataset):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    for kind in (TensorDataset, Asked):
        torch.manual_seed(0)
        inputs = torch.randn(N_ITEMS, 3)
        loaders = [DataLoader(kind(inputs, inputs.sum(1, keepdim=True)), 4, shuffle=each) for each in (1, 0)]
        learn = Learner(
            torch.nn.Linear(3, 1),
            Data(*loaders),
            torch.nn.functional.mse_loss,
            lambda params: torch.optim.SGD(params, lr=0.1),
        )
        learn.fit(3)
        weights.append([*learn.model.parameters(), torch.tensor(learn.history["valid_loss"])])
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert asked  # else both were taken at once


def test_tensors_that_replace_others_are_used():
    data = dataset()
    batches = iter(at_once(DataLoader(data, 4)))
    next(batches)
    data.tensors = (torch.arange(float(N_ITEMS)),)
    torch.testing.assert_close(next(batches), [torch.arange(4.0, 8.0)])
