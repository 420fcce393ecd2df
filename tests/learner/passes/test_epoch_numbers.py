"""`set_epoch` is called once per training pass on every object that has it, and counts over fits."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from callbacks import Callback, Checkpoint, LearnerWarning
from learner import Data

X = torch.arange(8.0).view(8, 1)
ROWS = TensorDataset(X, X)


class Numbered:
    """An object that keeps the epoch numbers that it receives."""

    def __init__(self):
        self.numbers = []

    def set_epoch(self, epoch):
        self.numbers.append(epoch)


class Order(Numbered, Sampler):
    def __iter__(self):
        return iter(range(8))

    def __len__(self):
        return 8


class Batches(Order):
    def __iter__(self):
        return iter([[0, 1], [2, 3]])

    def __len__(self):
        return 2


class Rows(Numbered, Dataset):
    def __getitem__(self, index):
        return X[index], X[index]

    def __len__(self):
        return 8


class Stream(Numbered, IterableDataset):
    def __iter__(self):
        return iter(zip(X, X, strict=True))


class Loader(Numbered):
    def __iter__(self):
        return iter([(X, X)])


class Around:
    """A loader around another, like wrappers for devices."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


PLACES = {
    "a sampler": lambda numbered: DataLoader(ROWS, 2, sampler=numbered),
    "a sampler of a batch sampler": lambda numbered: DataLoader(
        ROWS, batch_sampler=BatchSampler(numbered, 2, drop_last=False)
    ),
    "a loader around a loader": lambda numbered: Around(DataLoader(ROWS, 2, sampler=numbered)),
    "a loader that a function returns": lambda numbered: lambda: DataLoader(ROWS, 2, sampler=numbered),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_sampler_receives_the_epoch_wherever_it_is(place, make_learner):
    numbered = Order()
    make_learner(data=Data(PLACES[place](numbered))).fit(3)
    assert numbered.numbers == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "loader_over"),
    [
        (Batches, lambda numbered: DataLoader(ROWS, batch_sampler=numbered)),
        (Rows, lambda numbered: DataLoader(numbered, 4)),
        (Rows, lambda numbered: DataLoader(Subset(numbered, range(4)), 4)),
        (Rows, lambda numbered: DataLoader(ConcatDataset([ROWS, numbered]), 4)),
        (Stream, lambda numbered: DataLoader(numbered, 4)),
        (Loader, lambda numbered: numbered),
    ],
    ids=["batch sampler", "data set", "in a subset", "in a concatenation", "iterable data set", "loader"],
)
def test_any_object_with_set_epoch_receives_the_epoch(make, loader_over, make_learner):
    numbered = make()
    make_learner(data=Data(loader_over(numbered))).fit(2)
    assert numbered.numbers == [0, 1]


def test_a_distributed_sampler_shuffles_each_epoch_as_in_a_hand_written_loop(make_learner):
    seen: list[list[int]] = []

    class Seen(Callback):
        def before_train(self, learn):
            seen.append([])

        def before_batch(self, learn):
            seen[-1] += learn.inputs[0][:, 0].int().tolist()

    loader = DataLoader(ROWS, 2, sampler=DistributedSampler(ROWS, num_replicas=1, rank=0, seed=1))
    make_learner(data=Data(loader), lr=1e-4, callbacks=[Seen]).fit(2)
    expected = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        expected.append([int(item) for batch in loader for item in batch[0][:, 0]])
    assert seen == expected


def test_the_number_counts_over_fits(make_learner):
    numbered = Order()
    learn = make_learner(data=Data(DataLoader(ROWS, 2, sampler=numbered)))
    learn.fit(2)
    learn.fit(1)
    assert numbered.numbers == [0, 1, 2]


def test_an_epoch_set_by_a_callback_takes_precedence(make_learner):
    numbered = Order()

    class Own(Callback):
        def before_epoch(self, learn):
            numbered.set_epoch(10 + learn.epoch)

    make_learner(data=Data(DataLoader(ROWS, 2, sampler=numbered)), callbacks=[Own]).fit(2)
    assert numbered.numbers == [0, 10, 1, 11]


def test_a_loader_assigned_before_an_epoch_receives_its_number(make_learner):
    numbered = Order()

    class Assign(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.data.train = DataLoader(ROWS, 2, sampler=numbered)

    make_learner(callbacks=[Assign]).fit(3)
    assert numbered.numbers == [1, 2]


def test_a_loader_with_its_own_epoch_number_keeps_it(make_learner):
    seen = []

    class Assign(Callback):
        def before_epoch(self, learn):
            sampler = DistributedSampler(ROWS, num_replicas=1, rank=0)
            sampler.set_epoch(7 + learn.epoch)
            learn.data.train = DataLoader(ROWS, 2, sampler=sampler)

        def after_train(self, learn):
            seen.append(learn.data.train.sampler.epoch)

    make_learner(callbacks=[Assign], lr=1e-4).fit(2)
    assert seen == [7, 8]


def test_validation_data_does_not_receive_the_epoch(make_learner):
    numbered = Rows()
    make_learner(data=Data(DataLoader(ROWS, 2), DataLoader(numbered, 2))).fit(2)
    assert numbered.numbers == []


def test_a_sandbox_restores_the_epoch(make_learner):
    sampler = DistributedSampler(ROWS, num_replicas=1, rank=0)
    learn = make_learner(data=Data(DataLoader(ROWS, 2, sampler=sampler)))
    learn.fit(3)
    with learn.sandbox():
        learn.fit(2)
        assert sampler.epoch == 4
    assert sampler.epoch == 2
    learn.fit(1)
    assert sampler.epoch == 3


@pytest.mark.parametrize("n_steps", [3, 4, 5, 8])
def test_a_resumed_run_receives_the_epoch_in_which_it_was_interrupted(n_steps, make_learner, tmp_path):
    seen: list[int] = []

    class Seen(Callback):
        def before_batch(self, learn):
            seen.append(int(learn.inputs[0][0]))

    class Crash(Callback):
        def after_step(self, learn):
            if learn.global_step == n_steps:
                raise RuntimeError("crash")

    def make(*callbacks):
        seen.clear()
        sampler = DistributedSampler(ROWS, num_replicas=1, rank=0)
        data = Data(DataLoader(ROWS, 2, sampler=sampler))
        return make_learner(data=data, lr=1e-4, callbacks=[Seen, *callbacks])

    make().fit(3)
    whole = list(seen)
    saving = partial(Checkpoint, tmp_path / "run", every="1 step")
    with pytest.raises(RuntimeError, match="crash"):
        make(saving()).fit(3, callbacks=[Crash])
    make(saving()).fit(3, resume="must")
    assert seen == whole[n_steps - 1 :]


class Counted:
    """An object whose `set_epoch` means something else."""

    def set_epoch(self):
        raise AssertionError("called")


def test_a_set_epoch_without_a_number_is_not_called(make_learner):
    loader = DataLoader(ROWS, 2)
    loader.dataset.counted = Counted()
    make_learner(data=Data(loader), lr=1e-4).fit(1)
    del ROWS.counted


class Pointed(Rows):
    """A data set with its epoch in shared memory, where worker processes see it."""

    def __init__(self):
        super().__init__()
        self.at = torch.zeros((), dtype=torch.long).share_memory_()


@pytest.mark.parametrize(("make", "is_warned"), [(Rows, True), (Pointed, False)])
def test_a_data_set_whose_copies_in_workers_miss_the_epoch_is_reported(make, is_warned, make_learner):
    loader = DataLoader(make(), 4, num_workers=1, persistent_workers=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LearnerWarning)
        make_learner(data=Data(loader), lr=1e-4).fit(2)
    messages = [str(each.message) for each in caught if "set_epoch has no effect" in str(each.message)]
    assert len(messages) == is_warned


def test_loaders_of_torch_without_set_epoch_train_without_a_warning(make_learner):
    data = Data(DataLoader(ROWS, 2, sampler=RandomSampler(ROWS)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(data=data, lr=1e-4).fit(2)
