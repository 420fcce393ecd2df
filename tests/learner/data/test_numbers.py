"""Numbers of every type, views and names in arrays on a disk."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from upper.mapped_arrays import SIZE, A, N, on_disk

from learner import Blocks, Data, Learner, TensorLoader


@pytest.fixture
def mapped(tmp_path):
    """Numbers 0 to 999 in rows of four, memory-mapped for reading."""
    return on_disk(tmp_path, np.arange(4.0 * N, dtype="float32").reshape(N, 4))


# Types of numbers

TYPES = {
    "float64": ("<f8", torch.float32),
    "float32": ("<f4", torch.float32),
    "float16": ("<f2", torch.float16),
    "big-endian float": (">f4", torch.float32),
    "big-endian float64": (">f8", torch.float32),
    "big-endian int": (">i8", torch.int64),
    "uint8": ("u1", torch.uint8),
    "uint16": ("<u2", torch.int32),
    "uint32": ("<u4", torch.int64),
    "big-endian uint32": (">u4", torch.int64),
    "bool": ("?", torch.bool),
    "complex": ("<c16", torch.complex128),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("place", ["memory", "read-only", "disk"])
def test_numbers_of_every_type_keep_their_values(tmp_path, kind, place):
    written, dtype = TYPES[kind]
    array = (np.arange(24) * 10 % 251).reshape(12, 2).astype(written)
    if place == "disk":
        array = on_disk(tmp_path, array)
    array.flags.writeable = place == "memory"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shuffle in (False, True):
            (batch,) = next(iter(TensorLoader((array,), SIZE, shuffle=shuffle, seed=2)))
            order = torch.randperm(12, generator=torch.Generator().manual_seed(2_000_006))
            assert batch.dtype == dtype
            assert np.array_equal(batch.numpy(), array[order.numpy()] if shuffle else array)


VIEWS = {
    "every second": lambda array: array[::2],
    "upside down": lambda array: array[::-1],
    "columns": lambda array: array[:, 1:3],
    "turned": lambda array: array.T,
    "Fortran": np.asfortranarray,
    "a field": lambda array: np.rec.fromarrays([array[:, 0], array[:, 1].astype("u1")])["f0"],
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("place", ["memory", "read-only", "disk"])
def test_views_of_every_form_have_their_own_items(mapped, kind, place):
    array = VIEWS[kind](mapped if place == "disk" else np.array(mapped))
    if place == "read-only":
        array.flags.writeable = False
    loader = TensorLoader((array,), 64, shuffle=True, seed=0)
    order = loader.order(0).numpy()
    found = torch.cat([batch for (batch,) in loader])
    assert np.array_equal(found.numpy(), array[order])
    found = torch.cat([batch for (batch,) in TensorLoader((array,), 64)])
    assert np.array_equal(found.numpy(), array)


def test_batches_of_a_read_only_array_are_copied_and_the_array_is_not():
    still = np.ones((6, 3), "float32")
    still.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = TensorLoader((still,), 6)
    assert np.shares_memory(loader.tensors[0].array, still)
    for (batch,) in loader:
        batch.zero_()
    assert still.sum() == 18


BAD = {
    "uint64": (lambda: np.ones(4, "u8"), TypeError, r"few operations for uint64.*astype"),
    "uint64 tensor": (lambda: torch.ones(4).to(torch.uint64), TypeError, "operations for uint64"),
    "objects": (lambda: np.array([{}, 1], dtype=object), TypeError, r"numpy\.object_.*astype"),
    "dates": (lambda: np.zeros(3, "datetime64[s]"), TypeError, r"datetime64.*astype"),
    "records": (lambda: np.zeros(3, "f4,u1"), TypeError, r"torch cannot convert"),
    "empty": (lambda: np.zeros((0, 3)), ValueError, "there are no items"),
    "no names": (dict, ValueError, "there are no items"),
    "a number as name": (lambda: {1: torch.ones(3)}, TypeError, "use strings as keys"),
    "lengths by name": (lambda: {"a": torch.ones(3), "b": torch.ones(4)}, ValueError, "3 and 4 items"),
    "sparse": (lambda: torch.eye(3).to_sparse(), ValueError, r"is a sparse tensor.*inputs\.to_dense\(\)"),
    "sparse by rows": (lambda: torch.eye(3).to_sparse_csr(), ValueError, r"is a sparse tensor"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        ValueError,
        r"nested tensor.*to_padded_tensor\(inputs, 0\.0\)",
    ),
    "masked": (
        lambda: np.ma.array(np.ones((3, 2)), mask=np.eye(3, 2)),
        ValueError,
        r"inputs has 2 masked numbers.*inputs\.filled\(0\)",
    ),
    "text by name": (lambda: {"a": "words"}, TypeError, r"inputs\['a'\] is 'words', which is not a tensor"),
}


@pytest.mark.filterwarnings("ignore:(Sparse CSR|The PyTorch API of nested)")
@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_batched_is_refused_with_a_description(kind):
    make, error, words = BAD[kind]
    with pytest.raises(error, match=words):
        Data.from_tensors(make(), valid=None)


def test_a_masked_array_without_masked_items_is_accepted():
    (batch,) = Data.from_tensors(np.ma.array(np.ones((3, 2))), valid=None, shuffle=False).train
    assert torch.equal(batch[0], torch.ones(3, 2))


@pytest.mark.parametrize("name", ["shuffle", "drop_last"])
def test_a_boolean_setting_must_be_true_or_false(name):
    with pytest.raises(TypeError, match=f"{name}='no'.*must be True or False"):
        Data.from_tensors(torch.ones(3), valid=None, **{name: "no"})


# By name


class Two(nn.Linear):
    def forward(self, one, other):
        return super().forward(one * other)


def named(**options):
    one, other = torch.arange(40.0)[:, None], torch.ones(40, 1)
    return Data.from_tensors({"one": one, "other": other}, one * 2, 8, seed=0, **options)


def parts(data):
    batch = next(iter(data.train))
    return data.split(batch)


def test_inputs_by_name_go_to_the_model_by_keyword():
    inputs, targets = parts(named())
    assert set(inputs) == {"one", "other"}
    assert torch.equal(targets, inputs["one"] * 2)
    optimizer = lambda parameters: torch.optim.SGD(parameters, 1e-4)  # noqa: E731
    learn = Learner(Two(1, 1), named(), F.mse_loss, optimizer)
    losses = [row["valid_loss"] for row in learn.fit(3)]
    assert losses[-1] < losses[0]
    assert learn.predict({"one": torch.ones(2, 1), "other": torch.ones(2, 1)}).shape == (2, 1)


def test_targets_may_be_named_too_or_be_keys_of_the_inputs(mapped):
    x, y, z = mapped, torch.arange(N), torch.arange(N) + 1
    forms = [
        Data.from_tensors({"x": x}, {"y": y, "z": z}, seed=0),
        Data.from_tensors({"x": x}, (y, z), seed=0),
        Data.from_tensors({"x": x, "y": y, "z": z}, ("y", "z"), seed=0),
        Data.from_tensors({"x": x, "y": y, "z": z}, ("y", "z"), seed=0, valid={"x": x, "y": y, "z": z}),
        Data.from_tensors({"x": x}, {"y": y, "z": z}, seed=0, valid=({"x": x}, {"y": y, "z": z})),
    ]
    for data in forms:
        inputs, targets = parts(data)
        assert list(inputs) == ["x"]
        assert torch.equal(targets[0] + 1, targets[1])
        assert torch.equal(inputs["x"][:, 0], 4.0 * targets[0])
        assert data.split(next(iter(data.valid)))[0].keys() == {"x"}
    whole, labels = parts(Data.from_tensors({"x": x, "labels": y}, seed=0))  # for a model with its own loss
    assert set(whole) == {"x", "labels"}
    assert labels is whole["labels"]


BAD_NAMES = {
    "a key that is not there": (lambda: Data.from_tensors({"x": A}, "y"), ValueError, "'y' is not a key"),
    "a name of both": (lambda: Data.from_tensors({"x": A}, {"x": A}), ValueError, "'x' is a name of both"),
    "the usual name": (lambda: Data.from_tensors({"targets": A}, A), ValueError, "'targets' is a name of"),
    "targets alone": (lambda: Data.from_tensors(A, {"y": A}), TypeError, "pass both by name"),
    "other names to validate": (
        lambda: Data.from_tensors({"x": A}, A, valid=({"z": A}, A)),
        ValueError,
        "valid has z, targets, but training has x, targets",
    ),
    "a mapping to validate": (lambda: Data.from_tensors(A, A, valid={"x": A}), ValueError, "pass a pair"),
}


@pytest.mark.parametrize("kind", BAD_NAMES)
def test_names_that_do_not_match_are_refused(kind):
    make, error, words = BAD_NAMES[kind]
    with pytest.raises(error, match=words):
        make()


# On an accelerator


class Copies(TorchDispatchMode):
    """Counts the copies from the host to a device, which is `meta` here."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        if isinstance(made, torch.Tensor) and {each.device.type for each in (*tensors, made)} == {
            "cpu",
            "meta",
        }:
            self.n += 1
        return made


@pytest.mark.parametrize("order", ["items", Blocks(8, window=100)])
def test_tensors_on_a_device_are_batched_there_with_one_copy_per_epoch(order):
    loader = TensorLoader((torch.ones(96, 2, device="meta"),) * 2, 8, shuffle=True, seed=0, order=order)
    with Copies() as copies:
        batches = list(loader)
    assert {tensor.device.type for batch in batches for tensor in batch} == {"meta"}
    assert copies.n == 1  # the order's, and no batch's
