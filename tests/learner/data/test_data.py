"""`Data`: batches of every kind, tensors in memory, and errors for bad input."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections import UserDict, namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from callbacks import Callback, DevicePlacement, Metrics, Recorder, ZeroGrad
from learner import Data, Learner, TensorLoader
from learner.data.data import as_data
from learner.data.loaders import n_batches_of
from learner.data.tensors import describe

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor


class Unknown(IterableDataset):
    """A stream of seven items without a length."""

    def __iter__(self):
        for n in range(7):
            yield torch.full((3,), float(n)), torch.ones(1)


class Items(Dataset):
    def __init__(self, n=7):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, n):
        return torch.full((3,), float(n)), torch.ones(1)


class Counts(Callback):
    """Count the items of each pass."""

    def before_fit(self, learn):
        self.batches, self.items = collections.Counter(), collections.Counter()

    def after_batch(self, learn):
        self.batches[learn.training] += 1
        self.items[learn.training] += learn.n_items


class Keyed(nn.Linear):
    def forward(self, x):
        return super().forward(x)


def x(n=4):
    return torch.rand(n, 3)


def y(n=4):
    return torch.rand(n, 1)


def fit(data, model=None, loss_func=F.mse_loss, n_epochs=2):
    counts = Counts()
    learn = Learner(
        model or Keyed(3, 1),
        data,
        loss_func,
        partial(torch.optim.SGD, lr=0.01),
        [counts],
        defaults=(ZeroGrad, DevicePlacement("cpu"), Metrics, Recorder),
    )
    learn.fit(n_epochs)
    return learn, counts


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


# Tensors in memory


@settings(max_examples=60, deadline=None)
@given(
    n_items=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_each_item_comes_exactly_once_per_epoch(n_items, batch_size, drop_last, shuffle, seed):
    items = torch.arange(n_items)
    loader = TensorLoader((items, -items), batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
    for _ in range(3):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(torch.equal(first, -second) for first, second in batches)
        assert [len(first) for first, _ in batches[:-1]] == [batch_size] * max(len(batches) - 1, 0)
        seen = torch.cat([first for first, _ in batches]).tolist() if batches else []
        assert len(set(seen)) == len(seen) == (n_items // batch_size * batch_size if drop_last else n_items)
        assert shuffle or seen == list(range(len(seen)))


def orders(seed, n_epochs=3):
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=seed)
    return [torch.cat([batch for (batch,) in loader]).tolist() for _ in range(n_epochs)]


def test_the_order_depends_on_the_seed_and_the_epoch_only():
    assert orders(3) == orders(3)
    assert orders(3) != orders(4)
    first, second, third = orders(3)
    assert first != second != third != first


def test_the_order_neither_depends_on_other_draws_nor_changes_them():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    expected = orders(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert orders(3) == expected


def test_without_a_seed_the_order_follows_the_seed_of_torch():
    def draw():
        torch.manual_seed(1)
        return orders(None)

    assert draw() == draw()
    assert orders(None) != orders(None)


def test_an_epoch_that_was_left_early_counts_as_an_epoch():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    next(iter(loader))
    assert torch.cat([batch for (batch,) in loader]).tolist() == orders(3)[1]


def test_a_loader_can_continue_at_the_position_of_another():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    list(loader)
    other = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=9)
    other.load_state_dict(loader.state_dict())
    assert torch.cat([batch for (batch,) in other]).tolist() == orders(3)[1]


def test_two_passes_at_once_do_not_disturb_each_other():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    pairs = list(zip(loader, loader, strict=True))
    seen = [torch.cat([batch for (batch,) in part]).tolist() for part in zip(*pairs, strict=True)]
    assert seen == orders(3)[:2]


@settings(max_examples=30, deadline=None)
@given(n_items=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_a_share_is_held_out_by_the_seed_and_no_item_is_in_both_parts(n_items, share, seed):
    n_valid = round(n_items * share)
    if not 0 < n_valid < n_items:
        return
    data = Data.from_tensors(torch.arange(n_items), valid=share, seed=seed)
    again = Data.from_tensors(torch.arange(n_items), valid=share, seed=seed)
    train, valid = data.train.tensors[0].tolist(), data.valid.tensors[0].tolist()
    assert (len(train), len(valid)) == (n_items - n_valid, n_valid)
    assert sorted(train + valid) == list(range(n_items))
    assert valid == again.valid.tensors[0].tolist()


@pytest.mark.parametrize("valid", [3, np.int64(3), 0.3, np.float32(0.3)])
def test_a_number_or_a_share_may_be_held_out(valid):
    data = Data.from_tensors(torch.arange(10), valid=valid)
    assert (data.train.n_items, data.valid.n_items) == (7, 3)


def test_validation_data_may_be_a_pair_or_none():
    data = Data.from_tensors(x(6), y(6), valid=(x(2), y(2)), batch_size=4)
    assert (data.train.n_items, data.valid.n_items) == (6, 2)
    assert Data.from_tensors(x(6), y(6), valid=None).valid is None
    fit(data)


def test_training_is_shuffled_and_validation_is_in_order_with_larger_batches():
    data = Data.from_tensors(torch.arange(100), batch_size=8, valid=0.4, seed=0)
    assert [len(batch) for (batch,) in data.valid] == [16, 16, 8]
    assert [batch.tolist() for (batch,) in data.valid] == [batch.tolist() for (batch,) in data.valid]
    assert [batch.tolist() for (batch,) in data.train] != [batch.tolist() for (batch,) in data.train]
    still = Data.from_tensors(torch.arange(10), batch_size=8, valid=None, shuffle=False)
    assert torch.cat([batch for (batch,) in still.train]).tolist() == list(range(10))


def test_arrays_become_tensors_of_the_default_dtype():
    data = Data.from_tensors(np.ones((6, 3)), np.arange(6), valid=None)
    assert [tensor.dtype for tensor in data.train.tensors] == [torch.float32, torch.int64]
    assert Data.from_tensors(np.ones((6, 3), "float16"), valid=None).train.tensors[0].dtype == torch.float16


def test_numbers_of_numpy_are_accepted():
    data = Data.from_tensors(x(9), batch_size=np.int64(4), seed=np.int64(3), valid=None)
    assert (len(data.train), data.train.seed) == (3, 3)


def test_data_that_requires_gradients_is_detached():
    inputs = x(6).requires_grad_()
    fit(Data.from_tensors(inputs * 2, y(6), valid=None))
    assert inputs.grad is None


def test_a_read_only_or_reversed_array_is_copied():
    still = np.ones((6, 3), "float32")
    still.flags.writeable = False
    upside_down = np.arange(6, dtype="float32")[::-1]
    data = Data.from_tensors(still, upside_down, valid=None)
    assert data.train.tensors[1].tolist() == [5, 4, 3, 2, 1, 0]


def test_a_column_of_a_table_is_accepted_as_an_array():
    class Column:  # as pandas' Series
        shape, dtype = (4,), object

        def __array__(self, dtype=None, copy=None):
            return np.arange(4.0)

    assert Data.from_tensors(Column(), valid=None).train.tensors[0].tolist() == [0, 1, 2, 3]


def test_several_inputs_and_targets_stay_together():
    numbers = torch.arange(20)
    data = Data.from_tensors((numbers, numbers + 100), (numbers + 200,), batch_size=3, seed=1)
    assert data.n_inputs == 2
    for batch in (*data.train, *data.valid):
        (one, other), target = data.split(batch)
        assert torch.equal(other, one + 100)
        assert torch.equal(target, one + 200)


def test_data_sets_are_batched_and_the_training_one_shuffled():
    data = Data.from_datasets(Items(40), Items(5), batch_size=4)
    assert (n_batches_of(data.train), n_batches_of(data.valid)) == (10, 1)
    first, second = ([batch[0][:, 0].tolist() for batch in data.train] for _ in range(2))
    assert first != second
    assert [batch[0][:, 0].tolist() for batch in data.valid] == [[0, 1, 2, 3, 4]]
    fit(data, n_epochs=1)


def test_data_sets_of_unknown_length_lists_and_options_are_accepted():
    fit(Data.from_datasets(Unknown(), Unknown(), batch_size=4))
    fit(Data.from_datasets([(torch.ones(3), torch.ones(1))] * 5, batch_size=2, shuffle=False, drop_last=True))
    data = Data.from_datasets(
        Items(),
        batch_size=4,
        collate_fn=lambda items: [torch.stack(part) for part in zip(*items, strict=True)],
    )
    assert isinstance(next(iter(data.train)), list)


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


# Bad input

T = torch.zeros(4, 3)

BAD = {
    "no batches": (lambda: Data(3), TypeError, r"Data\(train=\.\.\.\) is 3: pass an iterable of batches"),
    "None": (lambda: Data(None), TypeError, r"Data\(train=\.\.\.\) is None: pass an iterable"),
    "path": (lambda: Data("data.csv"), TypeError, r"is 'data\.csv': pass an iterable of batches"),
    "dict": (lambda: Data({"train": []}), TypeError, "a dict with the keys 'train': pass an iterable"),
    "bad valid": (lambda: Data([], 3), TypeError, r"Data\(valid=\.\.\.\) is 3"),
    "tensor": (
        lambda: Data(T),
        TypeError,
        r"a tensor of shape \(4, 3\).*Data\.from_tensors\(inputs, targets, valid=\.\.\.\)",
    ),
    "array": (lambda: Data(T.numpy()), TypeError, r"a ndarray of shape \(4, 3\).*Data\.from_tensors"),
    "two tensors": (
        lambda: Data((T, T)),
        TypeError,
        r"a tuple of 2 .*Data\.from_tensors.*\[\(inputs, targets\)\]",
    ),
    "data set": (lambda: Data(TensorDataset(T)), TypeError, r"a data set: batch it with Data\.from_datasets"),
    "class": (lambda: Data(DataLoader), TypeError, "is the class DataLoader: pass an instance of it"),
    "function with arguments": (
        lambda: Data(lambda n: []),
        TypeError,
        r"needs arguments \(.*'n'\).*lambda: make",
    ),
    "n_inputs": (lambda: Data([], n_inputs=0), ValueError, r"Data\(n_inputs=0\): pass how many items"),
    "n_inputs True": (lambda: Data([], n_inputs=True), ValueError, "n_inputs=True"),
    "split": (lambda: Data([], split="x"), TypeError, r"Data\(split='x'\): pass a function"),
    "data": (lambda: as_data(3), TypeError, r"data is 3: pass Data\(train, valid\)"),
    "keys": (lambda: Data([], targets=3), TypeError, r"Data\(targets=3\): pass the keys"),
    "empty key": (lambda: Data([], targets=""), TypeError, r"Data\(targets=''\)"),
    "data set alone": (lambda: as_data(Items()), TypeError, r"a Items, a data set: .*from_datasets"),
    "tensor alone": (lambda: as_data(T), TypeError, r"data is a tensor of shape .*from_tensors"),
    "list of batches alone": (
        lambda: as_data([(T, T)] * 3),
        TypeError,
        r"a list of 3 \(a tuple of 2, a tuple of 2, a tuple of 2\): .*Data\(\[batch, batch\]\)",
    ),
    "two pairs of tensors": (lambda: as_data(((T, T), (T, T))), TypeError, r"from_tensors\(.*valid=\.\.\.\)"),
    "rows": (lambda: Data.from_tensors([T[0]] * 2, T), ValueError, r"3 and 3 and 4 items.*torch\.stack"),
    "a data set for tensors": (
        lambda: Data.from_tensors(Items()),
        TypeError,
        r"a data set to Data\.from_datasets",
    ),
    "three": (lambda: as_data([1, 2, 3]), TypeError, r"data is a list of 3 \(1, 2, 3\): pass Data"),
    "lengths": (lambda: Data.from_tensors(T, T[:3]), ValueError, "have 4 and 3 items .*the same number"),
    "pair of lengths": (lambda: as_data((T, T[:3])), ValueError, "have 4 and 3 items"),
    "no items": (
        lambda: Data.from_tensors(T[:0]),
        ValueError,
        r"no items: inputs are a tensor of shape \(0, 3\)",
    ),
    "no inputs": (lambda: Data.from_tensors(()), ValueError, "there are no items: inputs are a tuple of 0"),
    "no dimensions": (
        lambda: Data.from_tensors(T.sum()),
        ValueError,
        "inputs is a tensor without dimensions",
    ),
    "a list of numbers": (
        lambda: Data.from_tensors([1.0, 2.0]),
        TypeError,
        r"inputs\[0\] is 1\.0, which is not a tensor or array.*torch\.tensor",
    ),
    "targets of words": (
        lambda: Data.from_tensors(T, np.array(["a", "b", "c", "d"])),
        TypeError,
        r"targets is a ndarray of shape \(4,\), which torch cannot convert .*astype",
    ),
    "batch size": (
        lambda: Data.from_tensors(T, batch_size=0),
        ValueError,
        "batch_size=0: write a whole number",
    ),
    "batch size text": (lambda: TensorLoader((T,), "4"), ValueError, "batch_size='4'"),
    "seed": (lambda: Data.from_tensors(T, seed="x"), ValueError, "seed='x': write a whole number from 0 on"),
    "negative seed": (lambda: Data.from_tensors(T, seed=-1), ValueError, "seed=-1"),
    "all held out": (
        lambda: Data.from_tensors(T, valid=4),
        ValueError,
        "valid=4 cannot be held out of 4 items",
    ),
    "share of 1": (
        lambda: Data.from_tensors(T, valid=1.0),
        ValueError,
        r"valid=1\.0 cannot .*between 0 and 1",
    ),
    "share too small": (lambda: Data.from_tensors(T, valid=0.01), ValueError, r"valid=0\.01 cannot"),
    "share NaN": (lambda: Data.from_tensors(T, valid=float("nan")), ValueError, "valid=nan"),
    "valid True": (lambda: Data.from_tensors(T, valid=True), ValueError, "valid=True"),
    "valid text": (lambda: Data.from_tensors(T, valid="0.2"), ValueError, "valid='0.2'"),
    "valid alone": (
        lambda: Data.from_tensors(T, T, valid=(T,)),
        ValueError,
        r"valid is a tuple of 1 .*a pair",
    ),
    "valid without targets": (
        lambda: Data.from_tensors(T, T, valid=(T, None)),
        ValueError,
        "valid has 1 inputs and 0 targets, but there are 1 inputs and 1 targets",
    ),
    "loader as data set": (
        lambda: Data.from_datasets(DataLoader(Items(), 4)),
        TypeError,
        "a DataLoader, which returns batches already",
    ),
    "no data set": (
        lambda: Data.from_datasets(3),
        TypeError,
        r"from_datasets\(train=\.\.\.\) is 3: pass a data set",
    ),
    "data set class": (lambda: Data.from_datasets(Items), TypeError, "is the class Items"),
    "sampler": (
        lambda: Data.from_datasets(Items(), sampler=range(3)),
        ValueError,
        r"sampler=\.\.\.\) would apply to both data sets",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_with_a_description_and_a_fix(kind):
    make, error, words = BAD[kind]
    with pytest.raises(error, match=words):
        make()


BAD_BATCHES = {
    "data class": (Sample(T, T), {}, TypeError, r"a batch is a Sample, .*Data\(\.\.\., split=function\)"),
    "text": ("abc", {}, TypeError, "a batch is 'abc'"),
    "None": (None, {}, TypeError, "a batch is None"),
    "too few": (
        (T, T),
        {"n_inputs": 3},
        ValueError,
        r"n_inputs=3\), but a batch has only 2 items: a tuple of 2",
    ),
    "tuple for keys": (
        (T, T),
        {"targets": "y"},
        TypeError,
        r"targets=\('y',\)\) names keys of mappings, but a batch is",
    ),
    "missing key": (
        {"x": T, "labels": T},
        {"targets": "label"},
        ValueError,
        r"a batch has no 'label'\. Did you mean 'labels'\? It is a dict with the keys 'x', 'labels'",
    ),
    "split gives no pair": (
        (T, T),
        {"split": lambda batch: batch[0]},
        TypeError,
        r"Data\(split=<lambda>\) returned a tensor .*return a pair, \(inputs, targets\)",
    ),
}


@pytest.mark.parametrize("kind", BAD_BATCHES)
def test_a_batch_that_cannot_be_split_is_refused_with_a_description_and_a_fix(kind):
    batch, options, error, words = BAD_BATCHES[kind]
    with pytest.raises(error, match=words):
        Data([batch], **options).split(batch)


def test_a_function_that_returns_no_batches_is_refused():
    def forgot_to_return():
        []  # noqa: B018

    with pytest.raises(
        TypeError, match="the function forgot_to_return was passed as data, but returned None: let it yield"
    ):
        fit(Data(forgot_to_return))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (torch.zeros(2, 3), "a tensor of shape (2, 3) and torch.float32"),
        (np.zeros(3), "a ndarray of shape (3,)"),
        ({"a": 1}, "a dict with the keys 'a'"),
        ({}, "a dict with the keys (none)"),
        ((1, "b", None), "a tuple of 3 (1, 'b', None)"),
        ([1] * 9, "a list of 9 (1, 1, 1, 1, ...)"),
        ("x" * 99, "'" + "x" * 56 + "..."),
        (Items, "the class Items"),
        (Items(), "a Items"),
    ],
)
def test_things_are_described_in_a_few_words(item, words):
    assert describe(item) == words
