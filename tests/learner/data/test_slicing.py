"""A rank's range of the items of a batch of any kind."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from learner import Data
from learner.data.sharing import Share, Shared


class Row(NamedTuple):
    """A batch with names."""

    inputs: Any
    targets: Any


@dataclass
class Record:
    """A batch as a record."""

    inputs: Any
    name: str = "record"


N = 7
X = torch.arange(3.0 * N).view(N, 3)
Y = torch.arange(N)
RANGES = ((0, 3), (3, 5), (5, 7))  # of three ranks


def parts(batch, size=3, previous=(), **options):
    """What each rank gets of a batch after some others."""
    found = []
    for rank in range(size):
        data = Data([*previous, batch], **options)
        found.append(list(Shared(data.train, Share(rank, size), lambda *_: None, data))[-1])
    return found


@pytest.mark.parametrize(
    "shape", [(X, Y), [X, Y], Row(X, Y), {"x": X, "labels": Y}, OrderedDict(x=X, labels=Y)]
)
def test_tensors_are_split_in_the_kind_of_batch_that_holds_them(shape):
    for part, (start, stop) in zip(parts(shape), RANGES, strict=True):
        assert type(part) is type(shape)
        x, y = part.values() if isinstance(part, dict) else part
        assert torch.equal(x, X[start:stop])
        assert torch.equal(y, Y[start:stop])


def test_a_tensor_alone_is_split():
    assert [part.tolist() for part in parts(Y)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_nothing_is_copied():
    assert all(
        part[0].untyped_storage().data_ptr() == X.untyped_storage().data_ptr() for part in parts((X, Y))
    )


def test_what_belongs_to_no_item_stays():
    numbers = {"x": X, "scale": 0.5, "name": "night", "none": None, "zero": torch.tensor(3), "labels": Y}
    for part in parts(numbers | {"one": torch.ones(1, 4)}):
        assert (part["scale"], part["name"], part["none"], part["zero"].item()) == (0.5, "night", None, 3)
        assert part["one"].shape == (1, 4)


def test_arrays_and_lists_of_entries_are_split():
    batch = {
        "a": np.arange(N),
        "texts": list("abcdefg"),
        "pictures": [torch.ones(n) for n in range(N)],
        "labels": Y,
    }
    for part, (start, stop) in zip(parts(batch), RANGES, strict=True):
        assert part["a"].tolist() == list(range(start, stop))
        assert part["texts"] == list("abcdefg"[start:stop])
        assert [len(each) for each in part["pictures"]] == list(range(start, stop))


def test_columns_within_a_batch_are_split_each():
    for part, (start, stop) in zip(parts(([X, {"z": 2 * X}], Y)), RANGES, strict=True):
        (x, more), _ = part
        assert torch.equal(x, X[start:stop])
        assert torch.equal(more["z"], 2 * X[start:stop])


def test_as_many_columns_as_items_are_known_from_an_earlier_batch():
    square, three = [torch.ones(3, 2), torch.zeros(3, 2), torch.ones(3, 2)], torch.arange(3)
    usual = ([torch.ones(5, 2)] * 3, torch.arange(5))
    for columns, _ in parts((square, three), previous=[usual]):
        assert [len(each) for each in columns] == [1, 1, 1]
    for entries, _ in parts((square, three)):  # as pictures of equal size
        assert len(entries) == 1


def test_time_first_is_split_by_its_second_dimension():
    long = torch.arange(4 * N * 2).view(4, N, 2)
    for part, (start, stop) in zip(parts((long, Y)), RANGES, strict=True):
        assert torch.equal(part[0], long[:, start:stop])
    square = torch.arange(N * N).view(N, N)  # as many moments as items
    for part, (start, stop) in zip(parts((square, Y), previous=[(square[:4], Y)]), RANGES, strict=True):
        assert torch.equal(part[0], square[:, start:stop])


@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences_are_split(is_sorted):
    lengths = range(N, 0, -1) if is_sorted else (3, 1, 6, 2, 7, 5, 4)
    sequences = [torch.full((n, 2), float(n)) for n in lengths]
    for part, (start, stop) in zip(
        parts((pack_sequence(sequences, enforce_sorted=is_sorted), Y)), RANGES, strict=True
    ):
        padded, found = pad_packed_sequence(part[0], batch_first=True)
        assert found.tolist() == list(lengths)[start:stop]
        assert padded[:, 0, 0].tolist() == list(lengths)[start:stop]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_split():
    nested = torch.nested.nested_tensor([torch.full((n + 1,), float(n)) for n in range(N)])
    for part, (start, stop) in zip(parts((nested, Y)), RANGES, strict=True):
        assert [each[0].item() for each in part[0].unbind()] == list(range(start, stop))


def test_sparse_tensors_are_split():
    for part, (start, stop) in zip(parts((X.to_sparse(), Y)), RANGES, strict=True):
        assert torch.equal(part[0].to_dense(), X[start:stop])


def test_records_and_other_mappings_are_split():
    for part, (start, stop) in zip(
        parts(Record(X), split=lambda each: (each.inputs, None)), RANGES, strict=True
    ):
        assert (part.name, part.inputs.tolist()) == ("record", X[start:stop].tolist())
    for part, (start, stop) in zip(parts(UserDict(x=X, labels=Y)), RANGES, strict=True):
        assert type(part) is UserDict
        assert torch.equal(part["x"], X[start:stop])


def test_encodings_of_hugging_face_are_split():
    batches = pytest.importorskip("transformers").BatchEncoding({"input_ids": X, "labels": Y})
    for part, (start, stop) in zip(parts(batches), RANGES, strict=True):
        assert type(part) is type(batches)
        assert torch.equal(part["input_ids"], X[start:stop])


def test_rows_that_belong_to_no_item_are_refused():
    with pytest.raises(
        ValueError,
        match=r'shape \(20,\): it is not known which .* Pass Distributed\(batch="each"\)',
    ):
        parts((torch.arange(20), torch.arange(N), Y), n_inputs=2)


class Graph:
    """Something without items."""

    num_graphs = N


def test_other_objects_are_refused_but_taken_as_a_whole_in_turn():
    with pytest.raises(
        TypeError, match=r"contains a Graph, which cannot be split into items. Pass Distributed\(batch"
    ):
        parts((Graph(), Y))
    data, noted = Data([(Graph(), Y)] * 3), []
    found = list(Shared(data.train, Share(1, 2, each=True), lambda *each: noted.append(each), data))
    assert (len(found), noted) == (2, [(N, 2 * N), (0, N)])


def test_a_batch_without_a_length_counts_as_unknown():
    data, noted = Data([{"scale": 1.0}] * 3), []
    assert len(list(Shared(data.train, Share(0, 2, each=True), lambda *each: noted.append(each), data))) == 2
    assert noted == [(None, None)] * 2
    with pytest.raises(TypeError, match=r"a dict with the keys 'scale', cannot be split into items"):
        list(Shared(data.train, Share(0, 2), lambda *_: None, data))
