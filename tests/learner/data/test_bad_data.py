"""Bad input for `Data` is refused with a description and a fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from upper.kinds_of_data import Items, Sample, fit

from learner import Data, TensorLoader
from learner.data.data import as_data
from learner.data.tensors import describe

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
    "array": (lambda: Data(T.numpy()), TypeError, r"an ndarray of shape \(4, 3\).*Data\.from_tensors"),
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
    "data set alone": (lambda: as_data(Items()), TypeError, r"an Items, a data set: .*from_datasets"),
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
    "no inputs": (lambda: Data.from_tensors(()), ValueError, "there are no items: inputs are an empty tuple"),
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
        r"targets is an ndarray of shape \(4,\), which torch cannot convert .*astype",
    ),
    "batch size": (
        lambda: Data.from_tensors(T, batch_size=0),
        ValueError,
        "batch_size=0: pass a whole number",
    ),
    "batch size text": (lambda: TensorLoader((T,), "4"), ValueError, "batch_size='4'"),
    "seed": (lambda: Data.from_tensors(T, seed="x"), ValueError, "seed='x': pass a whole number, 0 or more"),
    "negative seed": (lambda: Data.from_tensors(T, seed=-1), ValueError, "seed=-1"),
    "all held out": (
        lambda: Data.from_tensors(T, valid=4),
        ValueError,
        "valid=4 cannot be held out of 4 items",
    ),
    "share of 0": (
        lambda: Data.from_tensors(T, valid=0),
        ValueError,
        r"valid=0 cannot .* valid=None for none\.$",
    ),
    "share of 1": (
        lambda: Data.from_tensors(T, valid=1.0),
        ValueError,
        r"valid=1\.0 cannot .*between 0 and 1",
    ),
    "share too small": (lambda: Data.from_tensors(T, valid=0.01), ValueError, r"valid=0\.01 cannot"),
    "share NaN": (lambda: Data.from_tensors(T, valid=float("nan")), ValueError, "valid=nan"),
    "nothing left": (
        lambda: Data.from_tensors(T, valid=2, test=2),
        ValueError,
        "test=2 cannot be held out of 4 items, of which 2 are left",
    ),
    "test of other columns": (
        lambda: Data.from_tensors(T, T, test=(T, None)),
        ValueError,
        "test has 1 inputs and 0 targets",
    ),
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
        (torch.zeros(2, 3), "a tensor of shape (2, 3) with dtype torch.float32"),
        (np.zeros(3), "an ndarray of shape (3,)"),
        ({"a": 1}, "a dict with the keys 'a'"),
        ({}, "a dict with the keys (none)"),
        ((1, "b", None), "a tuple of 3 (1, 'b', None)"),
        ([1] * 9, "a list of 9 (1, 1, 1, 1, ...)"),
        ([], "an empty list"),
        (object(), "an object"),
        (torch.nn.LSTM(1, 1), "an LSTM"),
        ("x" * 99, "'" + "x" * 56 + "..."),
        (Items, "the class Items"),
        (Items(), "an Items"),
    ],
)
def test_things_are_described_in_a_few_words(item, words):
    assert describe(item) == words
