"""The time of an epoch over tensors in memory, with `TensorLoader` and with `DataLoader(TensorDataset(...))`.

Run: python benchmarks/data.py [rounds]

60,000 items of 784 float32 and a class index, in shuffled batches of 64, on one thread, without a model.
Every round goes through each loader once. A ratio compares two times of one round; the table shows its
median over rounds. The same items are also read from a memory-mapped file of 188 MB: from the page cache,
and "cold", after asking the system to drop the file's pages (where that is possible). Holding out a fifth of
the items is compared with copies of both parts, in memory and in the time of a pass over each part.

Then the same with training: the MLP of `lean.py`, 6,400 images per epoch, SGD, compared with a plain loop
over a DataLoader.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from beside.works import mlp, pictures
from lean import BATCH_SIZE, N_ITEMS, SGD, learner, loader, plain, report
from memory import resident
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ZeroGrad
from learner import Data, TensorLoader

N_ROWS, N_FEATURES = 60_000, 784
LIMIT = 0.25  #: at most this share of DataLoader's time


def seconds(loader: Iterable[Any], n_items: int = N_ROWS) -> float:
    start = time.perf_counter()
    assert sum(len(targets) for _, targets in loader) == n_items
    return time.perf_counter() - start


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    inputs, targets = torch.rand(N_ROWS, N_FEATURES), torch.randint(10, (N_ROWS,))
    with tempfile.TemporaryDirectory() as folder:
        warm, cold = written(Path(folder, "warm.npy"), inputs), written(Path(folder, "cold.npy"), inputs)
        mapped = np.load(warm, mmap_mode="r")
        kept = {
            "DataLoader": DataLoader(TensorDataset(inputs, targets), BATCH_SIZE, shuffle=True),
            "TensorLoader": batched(inputs, targets),
            "mapped": batched(mapped, targets),
            "mapped, blocks": batched(mapped, targets, order="blocks"),
        }
        taken = []
        for _ in range(rounds):
            taken.append({name: seconds(loader) for name, loader in kept.items()})
            for order in ("items", "blocks"):
                forget(cold)
                array = np.load(cold, mmap_mode="r")  # open again: mapped pages are not dropped
                taken[-1][f"cold, {order}"] = seconds(batched(array, targets, order=order))
    for name in taken[0]:
        ratio = statistics.median(each[name] / each["DataLoader"] for each in taken)
        limit = f" (at most {LIMIT})" if name == "TensorLoader" else ""
        took = statistics.median(each[name] for each in taken) * 1e3
        print(f"{name:<16}{took:>8.0f} ms per epoch{ratio:>8.3f} of DataLoader's{limit}")
    held_out(inputs, targets, rounds)
    print(f"medians of {rounds} rounds")
    training(rounds)


def held_out(inputs: torch.Tensor, targets: torch.Tensor, rounds: int) -> None:
    """Memory of a split, and the time of a pass over each part, compared with copies of the parts."""
    before = resident()
    data = Data.from_tensors(inputs, targets, BATCH_SIZE)
    after = resident()
    parts: list[Any] = [data.train, data.valid]
    copies = [TensorLoader(each.tensors, each.batch_size, shuffle=each.shuffle) for each in parts]
    print(f"valid=0.2 adds {after - before:.0f} MB, and copies of both parts {resident() - after:.0f} MB")
    for name, pair in zip(("training", "validation"), zip(parts, copies, strict=True), strict=True):
        taken = [[seconds(each, each.n_items) for each in pair] for _ in range(rounds)]
        ours, copied = (statistics.median(column) * 1e3 for column in zip(*taken, strict=True))
        print(f"a pass over the {name} part: {ours:.1f} ms, over a copy {copied:.1f} ms")


def training(rounds: int) -> None:
    """A step of the MLP with batches from different loaders."""
    inputs, targets = pictures(N_ITEMS)

    def ours(data: Data) -> Any:
        return learner(mlp(), data, F.cross_entropy, SGD, ZeroGrad())

    with tempfile.TemporaryDirectory() as folder:
        mapped = np.load(written(Path(folder, "items.npy"), inputs), mmap_mode="r")
        works = {
            "plain loop": plain(mlp(), loader(), F.cross_entropy, SGD),
            "plain loop again (the noise)": plain(mlp(), loader(), F.cross_entropy, SGD),
            "ZeroGrad, DataLoader": ours(Data(loader())),
            "ZeroGrad, tensors": ours(Data(batched(inputs, targets))),
            "ZeroGrad, a map": ours(Data(batched(mapped, targets))),
            "ZeroGrad, a map, blocks": ours(Data(batched(mapped, targets, order="blocks"))),
        }
        report("MLP 784-128-10, batch 64, SGD", works, rounds, len(inputs) // BATCH_SIZE)


def written(path: Path, inputs: torch.Tensor) -> Path:
    """A file of the inputs, flushed to disk, because only written pages can be dropped."""
    np.save(path, inputs.numpy())
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def forget(path: Path) -> None:
    """Ask the system to drop a file's pages from memory."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batched(inputs: Any, targets: Any, **options: Any) -> Iterable[Any]:
    data: Any = Data.from_tensors(inputs, targets, BATCH_SIZE, valid=None, **options)
    return data.train


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
