"""`Data`: batches of every kind, tensors in memory, and errors for bad input."""

from __future__ import annotations

import collections
import copy
from collections import UserDict, namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from upper.kinds_of_data import Items, Keyed, Sample, Unknown, fit, x, y

from callbacks import Metrics, ZeroGrad
from learner import Data, Learner, TensorLoader
from learner.data.data import as_data
from learner.data.loaders import n_batches_of

Pair = namedtuple("Pair", "x y")


def generator():
    yield x(), y()
    yield x(3), y(3)


LOADERS = {
    "list": lambda: [(x(), y()), (x(3), y(3))],
    "tuple of batches": lambda: ((x(), y()), (x(3), y(3))),
    "DataLoader": lambda: DataLoader(Items(), 4),
    "generator function": lambda: generator,
    "partial": lambda: partial(list, [(x(), y()), (x(3), y(3))]),
    "unknown length": lambda: DataLoader(Unknown(), 4),
    "function giving a loader": lambda: lambda: DataLoader(Items(), 4),
    "TensorLoader": lambda: TensorLoader((x(7), y(7)), 4, shuffle=True),
    "batched by the data set": lambda: DataLoader([(x(), y()), (x(3), y(3))], batch_size=None),
}


@pytest.mark.parametrize("train", LOADERS)
@pytest.mark.parametrize("valid", [None, "list", "unknown length"])
def test_every_kind_of_loader_trains_and_validates(train, valid):
    learn, counts = fit(Data(LOADERS[train](), valid and LOADERS[valid]()))
    assert counts.batches[True] == 2 * 2
    assert counts.items[True] == 2 * 7
    assert counts.items[False] == (2 * 7 if valid else 0)
    assert len(learn.history) == 2


BATCHES = {
    "tuple": (lambda: (x(), y()), {}),
    "list": (lambda: [x(), y()], {}),
    "named tuple": (lambda: Pair(x(), y()), {}),
    "dict": (lambda: {"x": x(), "y": y()}, {"targets": "y"}),
    "user dict": (lambda: UserDict(x=x(), y=y()), {"targets": ["y"]}),
    "data class": (lambda: Sample(x(), y()), {"split": lambda batch: (batch.x, batch.y)}),
    "nested": (lambda: ({"x": x()}, [y(), None]), {"split": lambda batch: (batch[0], batch[1][0])}),
    "by tuple": (lambda: (y(), x()), {"split": lambda batch: ((batch[1],), batch[0])}),
    "by keyword": (lambda: (y(), x()), {"split": lambda batch: ({"input": batch[1]}, batch[0])}),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_every_kind_of_batch_trains_validates_and_predicts(kind):
    make, options = BATCHES[kind]
    model = nn.Linear(3, 1) if kind == "by keyword" else None
    learn, counts = fit(Data([make(), make()], [make()], **options), model)
    assert counts.items[True] == 2 * 8
    assert learn.predict(x(5)).shape == (5, 1)
    preds, targets = learn.get_preds()
    assert preds.shape == targets.shape == (4, 1)


def test_a_split_function_also_gets_an_empty_batch(make_learner):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self):
            return self.value

    data = Data([(), ()], split=lambda batch: ((), torch.ones(())))
    learn = make_learner(model=Constant(), data=data)
    learn.fit(1)
    assert learn.global_step == 2


def test_batches_of_hugging_face_go_to_the_model_whole_and_its_own_loss_is_used():
    class Output(collections.OrderedDict):
        loss = property(lambda self: self["loss"])
        logits = property(lambda self: self["logits"])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x, labels=None):
            logits = self.linear(x)
            return Output(loss=None if labels is None else F.mse_loss(logits, labels), logits=logits)

    batch = UserDict(x=x(), labels=y())
    learn, counts = fit(Data([batch], [batch]), Model(), loss_func=None)
    assert counts.items == {True: 8, False: 8}
    assert learn.predict({"x": x(5)})["logits"].shape == (5, 1)
    assert learn.get_preds()[1].shape == (4, 1)


def test_a_model_of_several_inputs_takes_the_first_items():
    class Two(nn.Linear):
        def forward(self, one, other):
            return super().forward(one + other)

    data = Data([(x(), x(), y())], n_inputs=2)
    assert data.split((1, 2, 3)) == ((1, 2), 3)
    assert data.split([1, 2, 3, 4]) == ((1, 2), (3, 4))
    assert data.split((1, 2)) == ((1, 2), None)
    learn, _ = fit(data, Two(3, 1))
    assert learn.predict((x(5), x(5))).shape == (5, 1)


def test_several_targets_reach_the_loss_and_the_metrics_together():
    seen = []

    def loss_func(preds, one, other):
        return F.mse_loss(preds, one + other)

    def both(preds, targets):
        seen.append(len(targets))
        return 0.0

    data = Data([{"x": x(), "a": y(), "b": y()}], targets=("a", "b"))
    learn = Learner(
        Keyed(3, 1),
        data,
        loss_func,
        partial(torch.optim.SGD, lr=0.1),
        [Metrics(both, on="train")],
        defaults=(ZeroGrad,),
    )
    learn.fit(1)
    assert seen == [2]
    assert data.split({"x": 1, "a": 2, "b": 3}) == ({"x": 1}, (2, 3))


def test_a_bare_tensor_is_an_input_without_targets():
    batch = x()
    inputs, targets = Data([batch]).split(batch)
    assert inputs == (batch,)
    assert targets is None


# What Learner takes


def test_a_pair_of_tensors_is_one_batch_of_all():
    learn, counts = fit((x(9), y(9)))
    assert counts.batches[True] == 2
    assert counts.items[True] == 18
    assert learn.data.valid is None


def test_a_pair_of_loaders_and_a_loader_alone_are_data():
    train, valid = DataLoader(Items(), 4), [(x(), y())]
    assert (as_data((train, valid)).train, as_data([train, valid]).valid) == (train, valid)
    assert as_data((train, None)).valid is None
    assert as_data(train).train is train
    data = Data(train)
    assert as_data(data) is data


def test_a_length_is_shown_if_there_is_one():
    assert [n_batches_of(LOADERS[kind]()) for kind in ("list", "DataLoader", "TensorLoader")] == [2, 2, 2]
    assert [n_batches_of(LOADERS[kind]()) for kind in ("unknown length", "generator function")] == [
        None,
        None,
    ]


def test_data_shows_what_it_holds():
    data = Data.from_tensors(x(10), y(10), batch_size=4)
    assert repr(data) == "Data(2 batches of a TensorLoader, valid=1 batch of a TensorLoader)"
    assert repr(Data([1], test=[2, 3])) == "Data(1 batch of a list, valid=None, test=2 batches of a list)"
    assert "shape (8, 3)" in repr(data.train)
    assert repr(Data(generator)) == "Data(a function, valid=None)"


def test_a_loader_can_be_copied():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    assert [b.tolist() for (b,) in copy.deepcopy(loader)] == [b.tolist() for (b,) in loader]
