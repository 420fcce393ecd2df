"""Time and peak memory of `get_preds`, compared with a hand-written evaluation loop.

Run: python benchmarks/get_preds.py [rounds] [items]

A linear layer maps 100 numbers to 100, for a million items in batches of 1000. The loop by hand writes each
batch into tensors of the final size; on disk it writes each batch to a file. Each measurement runs in its
own process, in turn, and the table has the medians: seconds of the call, seconds of the processor, time of
the median batch (which depends least on what else the machine does), peak memory of the process, and the
part that the call added.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from learner import Data, Learner, TensorLoader

SIZE = 100
BATCH = 1000
Row = tuple[float, float, float, float, float]


class TimedLoader(TensorLoader):
    """Notes when each batch is fetched."""

    def from_batch(self, first: int) -> Iterator[Any]:
        self.times: list[float] = []
        for batch in super().from_batch(first):
            self.times.append(time.perf_counter())
            yield batch
        self.times.append(time.perf_counter())

    def per_batch(self) -> float:
        """Microseconds of the median batch."""
        return 1e6 * statistics.median(end - start for start, end in pairwise(self.times))


def by_hand(model: nn.Module, loader: TensorLoader, _folder: Path) -> None:
    preds, targets = torch.empty(loader.n_items, SIZE), torch.empty(loader.n_items)
    start = 0
    with torch.no_grad():
        for inputs, wanted in loader:
            end = start + len(inputs)
            preds[start:end], targets[start:end] = model(inputs), wanted
            start = end


def by_hand_to_disk(model: nn.Module, loader: TensorLoader, folder: Path) -> None:
    with (
        (folder / "preds.bin").open("wb") as preds,
        (folder / "targets.bin").open("wb") as targets,
        torch.no_grad(),
    ):
        for inputs, wanted in loader:
            preds.write(model(inputs).numpy().data)
            targets.write(wanted.numpy().data)


def ours(model: nn.Module, loader: TensorLoader, _folder: Path) -> None:
    Learner(model, Data(loader), F.mse_loss).get_preds(loader)


def ours_to_disk(model: nn.Module, loader: TensorLoader, folder: Path) -> None:
    preds, _ = Learner(model, Data(loader), F.mse_loss).get_preds(loader, to=folder / "preds.npy")
    assert isinstance(preds, np.memmap)


WAYS: dict[str, Callable[[nn.Module, TensorLoader, Path], None]] = {
    "by hand": by_hand,
    "get_preds": ours,
    "by hand, to disk": by_hand_to_disk,
    "get_preds(to=...)": ours_to_disk,
}


def measure(way: str, n_items: int) -> Row:
    """Seconds, seconds of the processor, microseconds per batch, peak memory and what was added, in MB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = TimedLoader((torch.rand(n_items, SIZE), torch.rand(n_items)), BATCH)
    model = nn.Linear(SIZE, SIZE).eval()
    with tempfile.TemporaryDirectory() as other_folder, tempfile.TemporaryDirectory() as folder:
        small = TensorLoader((torch.rand(2 * BATCH, SIZE), torch.rand(2 * BATCH)), BATCH)
        # the first call loads code; in another folder, as ext4 writes a file at once that replaces one
        WAYS[way](model, small, Path(other_folder))
        before, start, start_of_work = peak(), time.perf_counter(), time.process_time()
        WAYS[way](model, loader, Path(folder))
        seconds, work = time.perf_counter() - start, time.process_time() - start_of_work
    return seconds, work, loader.per_batch(), peak(), peak() - before


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(n_rounds: int = 5, n_items: int = 1_000_000) -> None:
    found: dict[str, list[Row]] = {way: [] for way in WAYS}
    for _ in range(n_rounds):
        for way in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[way].append(pool.submit(measure, way, n_items).result())
    print(f"{n_items} items, {n_rounds} rounds, torch {torch.__version__}")
    print(f"{'':18} {'seconds':>8} {'cpu s':>8} {'us/batch':>9} {'peak MB':>8} {'added MB':>9}")
    for way, rows in found.items():
        seconds, work, batch, whole, added = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{way:18} {seconds:8.3f} {work:8.3f} {batch:9.1f} {whole:8.0f} {added:9.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
