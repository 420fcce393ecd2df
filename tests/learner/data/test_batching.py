"""Batches of arrays on a disk, by name, and in blocks; also resumed, of truncated files, and memory."""

from __future__ import annotations

import copy
import mmap
import multiprocessing
import os
import pickle
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import Callback, Checkpoint, ZeroGrad
from learner import Blocks, Data, Learner, TensorLoader
from learner.data.stored import Stored
from learner.state.fingerprint import loader_of

N, SIZE = 1000, 12


@pytest.fixture
def mapped(tmp_path):
    """Numbers 0 to 999 in rows of four, memory-mapped for reading."""
    return on_disk(tmp_path, np.arange(4.0 * N, dtype="float32").reshape(N, 4))


def on_disk(folder, array, name="items.npy"):
    np.save(folder / name, array)
    return np.load(folder / name, mmap_mode="r")


def numbers(batches):
    return torch.cat([batch[0][:, 0] for batch in batches]).div(4).long()


# On a disk


@pytest.mark.parametrize("order", ["items", "blocks", Blocks(7, window=3)])
@pytest.mark.parametrize("valid", [None, 0.2])
def test_a_map_has_the_same_batches_as_the_array_in_memory(mapped, order, valid):
    targets = torch.arange(N)
    data = Data.from_tensors(mapped, targets, 32, seed=3, order=order, valid=valid)
    rows = data.train.rows
    here = torch.from_numpy(np.array(mapped))
    same = TensorLoader((here, targets), 32, shuffle=True, seed=3, order=order, rows=rows)
    for one, other in [(data.train, same), (data.train, same)]:  # two epochs
        for batch, expected in zip(one, other, strict=True):
            assert all(map(torch.equal, batch, expected))
            assert torch.equal(batch[0][:, 0], 4.0 * batch[1])


def test_a_map_is_split_like_an_array_in_memory_without_a_copy(mapped):
    here = Data.from_tensors(np.array(mapped), seed=5, valid=0.3)
    data = Data.from_tensors(mapped, seed=5, valid=0.3)
    assert isinstance(data.train.tensors[0], Stored)
    assert data.train.tensors[0].array.base is not None
    for one, other in [(data.train, here.train), (data.valid, here.valid)]:
        assert sorted(numbers(one).tolist()) == sorted(numbers(other).tolist())
    found = numbers(data.valid)
    assert torch.equal(found, found.sort().values)  # read as it stands on the disk


def private() -> int:
    """The memory of this process in bytes, without pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def read_all(sender, path, order, n_items, n_floats, last):
    """Send the most memory that an epoch over a map took, and its number of items."""
    array = np.memmap(path, "float32", "r", shape=(n_items, n_floats))
    before = private()
    data = Data.from_tensors(array, torch.zeros(n_items), 16, seed=0, order=order, valid=0.01)
    most, n_read = 0, 0
    for n, (inputs, _) in enumerate(data.train):
        n_read += len(inputs)
        if n % 50 == 0:
            most = max(most, private() - before)
        if n == last:
            break
    sender.send((most, n_read))


def private_memory(tmp_path, order, n_items, n_floats, last=10**9):
    """The memory in bytes that reading a sparse file takes in its own process, without pages of the file."""
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        try:
            file.truncate(n_items * n_floats * 4)
        except OSError:
            pytest.skip("no sparse files of this size here")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    context.Process(target=read_all, args=(sender, path, order, n_items, n_floats, last)).start()
    sender.close()
    return receiver.recv()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("order", "limit"), [("items", 40e6), ("blocks", 160e6)])
def test_an_epoch_over_a_map_holds_a_batch_or_a_window_in_memory(tmp_path, order, limit):
    most, n_read = private_memory(tmp_path, order, 2**14, 4096)  # 256 MiB; a window is 64 MiB
    assert n_read == 2**14 - 164
    assert most < limit


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("order", ["items", "blocks"])
def test_a_map_larger_than_any_memory_is_split_and_read(tmp_path, order):
    most, n_read = private_memory(tmp_path, order, 2**20, 2**16, last=20)  # 256 GiB
    assert n_read == 21 * 16
    assert most < 2e8  # the numbers of a million items, and a window


def test_a_window_is_read_in_blocks_in_ascending_order(mapped, monkeypatch):
    reads = []
    read = Stored.read_into

    def counted(self, target, start):
        reads.append((start, start + len(target)))
        read(self, target, start)

    monkeypatch.setattr(Stored, "read_into", counted)
    monkeypatch.setattr(Stored, "index_select", None)  # nothing is read item by item
    loader = TensorLoader((mapped,), 16, shuffle=True, seed=1, order=Blocks(10, window=5))
    list(loader)
    assert sorted(reads) == [(start, start + 10) for start in range(0, N, 10)]
    for window in range(0, 100, 5):
        assert reads[window : window + 5] == sorted(reads[window : window + 5])
    assert reads != sorted(reads)


def test_a_truncated_file_is_reported_before_it_kills_the_process(tmp_path, mapped):
    for options in ({}, {"shuffle": True}, {"shuffle": True, "order": "blocks"}):
        loader = TensorLoader((mapped,), 100, **options)
        assert len(list(loader)) == 10
    batches = iter(loader)
    loader = TensorLoader((mapped,), 100)
    rest = iter(loader)
    next(rest)
    os.truncate(tmp_path / "items.npy", 8192)
    with pytest.raises(OSError, match=r"items\.npy .*has 8,192 bytes, but .*needs 16,128.*cut short"):
        next(rest)
    for loader in (loader, TensorLoader((mapped[500:],), 100)):
        with pytest.raises(OSError, match="cut short"):
            next(iter(loader))
    with pytest.raises(OSError, match="cut short"):
        next(batches)
    assert len(list(TensorLoader((mapped[:500],), 100))) == 5  # what is needed is still there


def test_a_fit_over_a_truncated_file_raises_an_error_with_the_place(tmp_path, mapped):
    class Cuts(Callback):
        def after_batch(self, learn):
            if learn.batch_idx == 3:
                os.truncate(tmp_path / "items.npy", 8192)

    learn = Learner(
        nn.Linear(4, 4),
        Data.from_tensors(mapped, mapped, 32),
        F.mse_loss,
        lambda parameters: torch.optim.SGD(parameters, 1e-9),
        [Cuts()],
        defaults=(ZeroGrad,),
    )
    with pytest.raises(OSError, match="cut short") as caught:
        learn.fit(1)
    assert any("batch" in note for note in caught.value.__notes__)


def test_a_replaced_file_is_read_as_it_was_when_opened(tmp_path, mapped):
    expected = numbers(TensorLoader((mapped,), 100))
    np.save(tmp_path / "other.npy", np.zeros((2, 4), "float32"))
    (tmp_path / "other.npy").replace(tmp_path / "items.npy")
    assert torch.equal(numbers(TensorLoader((mapped,), 100)), expected)


def test_the_size_that_a_map_needs_is_counted_from_the_start_of_the_file(tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(bytes(3 * mmap.ALLOCATIONGRANULARITY))
    for offset in (0, 8, mmap.ALLOCATIONGRANULARITY, mmap.ALLOCATIONGRANULARITY + 40):
        array = np.memmap(path, "int32", "r", offset=offset, shape=(50, 2))
        for view, end in [(array, 400), (array[10:20], 160), (array[::-1], 400), (array[:, 0], 396)]:
            file = Stored(view).file
            assert file is not None
            assert file.n_bytes == offset + end


def test_writing_to_a_batch_of_a_map_leaves_the_file_unchanged(tmp_path):
    np.save(tmp_path / "items.npy", np.ones((8, 2), "float32"))
    for mode in ("r", "r+", "c"):
        array = np.load(tmp_path / "items.npy", mmap_mode=mode)
        for shuffle in (False, True):
            for (batch,) in TensorLoader((array,), 4, shuffle=shuffle):
                batch.zero_()
        assert bool((array == 1).all())


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
    with pytest.raises(TypeError, match=f"{name}='no': pass True or False"):
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


A = torch.ones(4)
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
    """Count the copies from the host to a device; `meta` is the accelerator here."""

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


# In blocks


@pytest.mark.parametrize("size", [1, 3, 64, 999, 5000])
@pytest.mark.parametrize("window", [1, 4, 10_000])
@pytest.mark.parametrize("drop_last", [False, True])
def test_in_blocks_each_item_comes_exactly_once_per_epoch(size, window, drop_last):
    options = {"shuffle": True, "seed": 4, "order": Blocks(size, window), "drop_last": drop_last}
    loader = TensorLoader((torch.arange(N),), 64, **options)
    for _ in range(2):
        order = loader.order(loader.epoch)
        batches = [batch for (batch,) in loader]
        assert [len(batch) for batch in batches] == [64] * 15 + [40] * (not drop_last)
        assert len(batches) == len(loader)
        assert torch.equal(torch.cat(batches), order[: len(torch.cat(batches))])
        assert sorted(order.tolist()) == list(range(N))


def test_items_of_a_block_come_in_one_window_which_is_anywhere_in_the_epoch():
    loader = TensorLoader((torch.arange(N),), 64, shuffle=True, seed=4, order=Blocks(10, window=5))
    means = torch.zeros(N)
    for epoch in range(200):
        places = torch.empty(N, dtype=torch.int64)
        places[loader.order(epoch)] = torch.arange(N)
        blocks = places.reshape(-1, 10)
        assert int((blocks.max(1).values - blocks.min(1).values).max()) < 50
        assert torch.equal(blocks.min(1).values // 50, blocks.max(1).values // 50)
        means += places / 200
    # uniform on 0 to 999: mean 499.5, deviation of a mean of 200 draws 20.4; here are a thousand means
    assert float((means - 499.5).abs().max()) < 5.5 * 20.4


def test_a_batch_has_items_of_as_many_blocks_as_the_window_has():
    classes = torch.arange(N * 10) // 100  # sorted by class, and blocks within a class
    loader = TensorLoader((classes,), 100, shuffle=True, seed=0, order=Blocks(10, window=50))
    n_classes = [len(Counter(batch.tolist())) for (batch,) in loader]
    assert min(n_classes) > 25
    with_one = TensorLoader((classes,), 100, shuffle=True, seed=0, order=Blocks(10, window=1))
    assert max(len(Counter(batch.tolist())) for (batch,) in with_one) <= 11


def test_blocks_have_a_mebibyte_by_default(mapped):
    loader = TensorLoader((mapped, torch.zeros(N, 500)), 8, shuffle=True, order="blocks")
    assert loader.blocks == Blocks(65_536, 64)  # of what is on the disk, 16 bytes per item
    assert TensorLoader((torch.ones(2, 2**20),), 8, shuffle=True, order="blocks").blocks == Blocks(1, 64)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Blocks(0), r"Blocks\(size=0\): pass a whole number"),
        (lambda: Blocks(2.5), "size=2.5"),
        (lambda: Blocks(4, window=0), "window=0"),
        (lambda: Blocks(4, window=None), "window=None"),
        (lambda: TensorLoader((A,), 2, shuffle=True, order="block"), r"order='block': choose 'items'"),
        (lambda: TensorLoader((A,), 2, shuffle=True, order=64), "order=64"),
        (lambda: TensorLoader((A,), 2, order="blocks"), "shuffle=False: leave one of them out"),
        (lambda: Data.from_tensors(A, shuffle=False, order=Blocks(3)), "shuffle=False"),
    ],
)
def test_an_impossible_order_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# Interrupted and resumed


class Seen(Callback):
    """Record a checksum of each batch, and raise an error after `at` batches."""

    state = ("seen",)

    def __init__(self, at=None):
        super().__init__()
        self.at, self.seen = at, []

    def after_batch(self, learn):
        self.seen.append(repr([tensor.double().sum().item() for tensor in learn.batch.values()]))
        if self.at is not None and len(self.seen) == self.at:
            raise KeyboardInterrupt


def trained(folder, array, order, at=None):
    torch.manual_seed(1)
    data = Data.from_tensors({"items": array}, torch.arange(N) / N, 64, seed=7, order=order)
    learn = Learner(
        Wide(),
        data,
        lambda preds, targets: F.mse_loss(preds[:, 0], targets),
        lambda parameters: torch.optim.Adam(parameters, 1e-2),
        [Seen(at), Checkpoint(folder, every="1 step")],
        defaults=(ZeroGrad,),
    )
    try:
        learn.fit(3, resume="auto")
    except KeyboardInterrupt:
        return None
    return [*(tensor.tolist() for tensor in learn.model.state_dict().values()), learn.callbacks[Seen].seen]


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, items):
        return self.layers(items / 4000)


@pytest.mark.parametrize("order", ["items", Blocks(9, window=4), Blocks(300, window=1)])
@pytest.mark.parametrize("at", [1, 5, 13, 15, 22])  # 13 batches to train on and 2 to validate
def test_an_interrupted_fit_over_a_map_ends_with_the_same_bits(tmp_path, mapped, order, at):
    expected = trained(tmp_path / "whole", mapped, order)
    assert trained(tmp_path / "resumed", mapped, order, at) is None
    assert trained(tmp_path / "resumed", np.load(tmp_path / "items.npy", mmap_mode="r"), order) == expected


def test_another_order_or_split_is_another_run(mapped):
    def described(**options):
        return loader_of(Data.from_tensors(mapped, **{"seed": 1, **options}).train)

    assert described() == described()
    assert described(order="blocks") != described()
    assert described(order=Blocks(3)) != described(order=Blocks(4))
    assert described(seed=2)["content"] != described()["content"]
    assert described(valid=None)["content"] != described()["content"]


def test_only_some_items_of_a_map_are_read_to_recognize_it(tmp_path):
    path = tmp_path / "wide.bin"
    with path.open("wb") as file:
        file.truncate(2**34)
    wide = np.memmap(path, "float32", "r", shape=(64, 2**26))
    assert loader_of(TensorLoader((wide,), 4))["content"] == loader_of(TensorLoader((wide,), 4))["content"]


def test_a_loader_over_a_map_is_copied_without_its_items(mapped):
    loader = TensorLoader((mapped,), 4, shuffle=True, seed=0)
    assert copy.deepcopy(loader).tensors[0] is loader.tensors[0]
    assert "a memory map of" in repr(loader)


@pytest.mark.parametrize("kind", ["whole", "part", "upside down", "turned"])
def test_a_loader_over_a_map_is_sent_to_another_process_without_its_items(tmp_path, mapped, kind):
    array = {"whole": mapped, "part": mapped[9:500, 1:], "upside down": mapped[::-2], "turned": mapped.T}[
        kind
    ]
    loader = TensorLoader((array,), 4, shuffle=True, seed=0)
    sent = pickle.dumps(loader)
    assert len(sent) < 2000
    for batch, other in zip(loader, pickle.loads(sent), strict=True):
        assert torch.equal(*batch, *other)
    os.truncate(tmp_path / "items.npy", 200)
    with pytest.raises((TypeError, ValueError, OSError)):
        next(iter(pickle.loads(sent)))


def test_a_read_only_array_is_sent_completely():
    still = np.arange(6.0, dtype="float32")
    still.flags.writeable = False
    (batch,) = next(iter(pickle.loads(pickle.dumps(TensorLoader((still,), 6)))))
    assert batch.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("order", ["items", Blocks(7, window=3)])
def test_float64_on_a_disk_becomes_the_default_dtype(tmp_path, dtype, order):
    array = on_disk(tmp_path, np.random.default_rng(0).random((50, 2)))
    torch.set_default_dtype(dtype)
    try:
        loader = TensorLoader((array,), 50, shuffle=True, seed=0, order=order)
        numbers = loader.order(0)
        (batch,) = next(iter(loader))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(batch, torch.from_numpy(np.array(array)).to(dtype)[numbers])


def test_a_pair_of_maps_is_one_batch_of_all(mapped):
    learn = Learner(nn.Linear(4, 4), (mapped, mapped), F.mse_loss)
    inputs, targets = next(iter(learn.data.train))
    assert torch.equal(inputs, targets)
    assert inputs.shape == (N, 4)
