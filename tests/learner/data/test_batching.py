"""Batches of arrays on a disk, by name, and in blocks; also resumed, of truncated files, and memory."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.mapped_arrays import N, numbers, on_disk

from callbacks import Callback, ZeroGrad
from learner import Blocks, Data, Learner, TensorLoader
from learner.data.stored import Stored


@pytest.fixture
def mapped(tmp_path):
    """Numbers 0 to 999 in rows of four, memory-mapped for reading."""
    return on_disk(tmp_path, np.arange(4.0 * N, dtype="float32").reshape(N, 4))


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
    assert len(list(TensorLoader((mapped[:500],), 100))) == 5  # the parts that are needed still exist


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
