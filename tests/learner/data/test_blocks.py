"""Batches in blocks, interrupted passes, and maps in other processes."""

from __future__ import annotations

import copy
import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.mapped_arrays import A, N, on_disk

from callbacks import Callback, Checkpoint, ZeroGrad
from learner import Blocks, Data, Learner, TensorLoader
from learner.state.fingerprint import loader_of


@pytest.fixture
def mapped(tmp_path):
    """Numbers 0 to 999 in rows of four, memory-mapped for reading."""
    return on_disk(tmp_path, np.arange(4.0 * N, dtype="float32").reshape(N, 4))


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
    """A callback that records a checksum of each batch, and raises an error after `at` batches."""

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


@pytest.fixture(scope="module", params=["items", Blocks(9, window=4), Blocks(300, window=1)])
def order_and_end(request, tmp_path_factory):
    """An order, and what a fit that is not interrupted ends with."""
    folder = tmp_path_factory.mktemp("whole")
    items = on_disk(folder, np.arange(4.0 * N, dtype="float32").reshape(N, 4))
    return request.param, trained(folder / "run", items, request.param)


@pytest.mark.parametrize("at", [1, 5, 13, 15, 22])  # 13 batches to train on and 2 to validate
def test_an_interrupted_fit_over_a_map_ends_with_the_same_bits(tmp_path, mapped, order_and_end, at):
    order, expected = order_and_end
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
