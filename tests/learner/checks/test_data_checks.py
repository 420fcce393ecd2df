"""Errors of the data that are found before training: no batches, used-up data, doubtful validation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from callbacks import Callback, CancelTrain, LearnerWarning, ZeroGrad
from learner import Data, Learner, TensorLoader

SGD = partial(torch.optim.SGD, lr=0.01)


def data_set(n_items: int) -> TensorDataset:
    return TensorDataset(torch.randn(n_items, 1), torch.randn(n_items, 1))


def learner_of(data, model=None, loss_func=F.mse_loss, **options) -> Learner:
    options.setdefault("defaults", (ZeroGrad,))
    return Learner(model or nn.Linear(1, 1), data, loss_func, SGD, **options)


class Once:
    """Data that can be read once, which its `__iter__` does not show."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        yield from self.batches


class Rewinding:
    """An iterator that restarts in `__iter__`, like loaders of other libraries."""

    def __init__(self, batches):
        self.source, self.batches = batches, iter(())

    def __iter__(self):
        self.batches = iter(self.source)
        return self

    def __next__(self):
        return next(self.batches)


class Stream:
    """An iterator whose `__iter__` returns itself."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.batches)


class Counted(IterableDataset):
    def __init__(self, n_items: int):
        self.n_items = n_items

    def __iter__(self):
        return iter([(torch.ones(1), torch.ones(1))] * self.n_items)


def test_a_batch_that_drop_last_drops_is_reported_with_the_sizes():
    loader = DataLoader(data_set(5), batch_size=8, drop_last=True)
    with pytest.raises(ValueError, match=r"len\(dataset\)=5, batch_size=8, drop_last=True.*drop_last=False"):
        learner_of(Data(loader)).fit(1)


@pytest.mark.parametrize(
    "loader",
    [
        [],
        DataLoader(data_set(0), batch_size=4),
        DataLoader(data_set(4), batch_sampler=[]),
        TensorLoader([torch.ones(3, 1)] * 2, 4, drop_last=True),
        DataLoader(Counted(0), batch_size=2),
        lambda: iter(()),
    ],
    ids=["list", "data set", "sampler", "tensors", "iterable data set", "function"],
)
def test_training_data_without_a_batch_is_refused(loader):
    called = []

    class Watch(Callback):
        def after_epoch(self, learn):
            called.append(learn.epoch)

    with pytest.raises(ValueError, match=r"training data.*has no batch"):
        learner_of(Data(loader), callbacks=[Watch]).fit(2)
    assert not called


def test_an_epoch_that_a_callback_skips_is_not_reported_as_empty_data():
    class Skip(Callback):
        def before_train(self, learn):
            raise CancelTrain

    learner_of(Data(lambda: iter(line_batches(2))), callbacks=[Skip]).fit(2)


def test_validation_data_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"validation data.*has no batch.*valid=None"):
        learner_of(Data(line_batches(2), [])).fit(1)


ONE_SHOT = {
    "generator": lambda batches: (batch for batch in batches),
    "iterator": iter,
    "map": lambda batches: map(tuple, batches),
    "zip": lambda batches: zip(*zip(*batches, strict=True), strict=True),
    "stream": Stream,
}


@pytest.mark.parametrize("make", ONE_SHOT.values(), ids=ONE_SHOT)
@pytest.mark.parametrize("name", ["train", "valid"])
def test_data_that_can_be_read_once_is_refused_for_two_epochs(make, name):
    loaders = {"train": line_batches(2), "valid": line_batches(2)} | {name: make(line_batches(2))}
    with pytest.raises(
        ValueError, match=rf"only once.*2 epochs: pass the function.*Data\({name}=function\).*list"
    ):
        learner_of(Data(**loaders)).fit(2)


@pytest.mark.parametrize("make", ONE_SHOT.values(), ids=ONE_SHOT)
def test_data_that_can_be_read_once_trains_for_one_epoch(make):
    learn = learner_of(Data(make(line_batches(2))))
    learn.fit(1)
    assert learn.global_step == 2
    with pytest.raises(ValueError, match="has no batch: it can be read only once, and is used up"):
        learn.fit(1)


def test_an_iterator_that_restarts_trains_for_two_epochs():
    learn = learner_of(Data(Rewinding(line_batches(2))))
    learn.fit(2)
    assert learn.global_step == 4


def test_a_second_epoch_with_fewer_batches_is_reported_with_both_numbers():
    with pytest.warns(LearnerWarning, match="epoch 1 of 3 had 0 training batches, the one before 3"):
        learner_of(Data(Once(line_batches(3)))).fit(3)


def test_an_epoch_that_a_callback_ends_early_is_not_reported_as_one_with_fewer_batches():
    class Shorten(Callback):
        def after_batch(self, learn):
            if learn.epoch == 1:
                raise CancelTrain

    learn = learner_of(Data(lambda: iter(line_batches(3))), callbacks=[Shorten])
    learn.fit(2)
    assert learn.global_step == 4


def test_one_loader_for_training_and_validation_raises_one_warning():
    batches = line_batches(2)
    with pytest.warns(LearnerWarning, match="training and validation use the same data") as caught:
        learner_of((batches, batches)).fit(3)
    assert len(caught) == 1


def test_two_loaders_of_one_data_set_raise_a_warning():
    data = data_set(4)
    with pytest.warns(LearnerWarning, match="the same data"):
        learner_of((DataLoader(data, shuffle=True), DataLoader(data))).fit(1)


def test_two_parts_of_one_data_set_are_allowed():
    data = data_set(4)
    loaders = [
        DataLoader(data, sampler=torch.utils.data.SubsetRandomSampler(part)) for part in ([0, 1], [2, 3])
    ]
    learner_of(tuple(loaders)).fit(1)


@pytest.mark.parametrize(
    "valid",
    [
        DataLoader(data_set(4), shuffle=True),
        DataLoader(data_set(4), sampler=RandomSampler(range(4))),
        TensorLoader([torch.ones(3, 1)] * 2, 4, shuffle=True),
    ],
)
def test_shuffled_validation_raises_a_warning_at_the_line_of_the_fit(valid):
    with pytest.warns(LearnerWarning, match="the validation data is shuffled") as caught:
        learner_of(Data(line_batches(2), valid)).fit(2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
