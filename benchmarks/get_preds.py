"""Time and peak memory of `get_preds`, and the time of short calls, compared with hand-written loops.

Run: python benchmarks/get_preds.py [rounds] [items] [layers]

A linear layer, or several with ReLU between them, map 100 numbers to 100, for a million items in batches of
1000. The loop by hand writes each batch into tensors of the final size; on disk it writes each batch to a
file. Each measurement runs in its own process, in turn, and the table has the medians: seconds of the call,
seconds of the processor, time of the median batch (which depends least on what else the machine does), peak
memory of the process, and the part that the call added.

A second table has calls of a small network that take less than a millisecond: a prediction of one row, a
validation of one batch, and an epoch of two batches. By hand and with a learner, they take turns. The
figures are processor times, as the lowest tenth of the rounds. With `short` only this table is printed.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import History, Progress
from learner import Data, Learner, TensorLoader

SIZE = 100
BATCH = 1000
N_CALLS = 100  #: short calls in a turn
Row = tuple[float, float, float, float, float]
in_process = partial(timeit, timer=time.process_time)


class TimedLoader(TensorLoader):
    """Notes when each batch is fetched."""

    def __iter__(self) -> Iterator[Any]:
        self.times: list[float] = []
        for batch in super().__iter__():
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


def network(n_layers: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(SIZE, SIZE)]
    for _ in range(n_layers - 1):
        layers += [nn.ReLU(), nn.Linear(SIZE, SIZE)]
    return nn.Sequential(*layers).eval()


def measure(way: str, n_items: int, n_layers: int) -> Row:
    """Seconds, seconds of the processor, microseconds per batch, peak memory and what was added, in MB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = TimedLoader((torch.rand(n_items, SIZE), torch.rand(n_items)), BATCH)
    model = network(n_layers)
    with tempfile.TemporaryDirectory() as other_folder, tempfile.TemporaryDirectory() as folder:
        small = TensorLoader((torch.rand(2 * BATCH, SIZE), torch.rand(2 * BATCH)), BATCH)
        # the first call loads code; in another folder, as ext4 writes a file at once that replaces one
        WAYS[way](model, small, Path(other_folder))
        before, start, start_of_work = peak(), time.perf_counter(), time.process_time()
        WAYS[way](model, loader, Path(folder))
        seconds, work = time.perf_counter() - start, time.process_time() - start_of_work
    return seconds, work, loader.per_batch(), peak(), peak() - before


def short_calls(n_rounds: int = 5) -> None:
    """Print the times of short calls, and of showing a long history."""
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    batch = torch.rand(8, 4), torch.rand(8, 1)
    learn = Learner(model, Data([batch], [batch]), F.mse_loss, partial(torch.optim.SGD, lr=0.01))
    learn.remove_callbacks(Progress)
    learn.fit(1)
    optimizer, row, rows = torch.optim.SGD(model.parameters(), lr=0.01), batch[0][:1], []

    def predict() -> None:
        model.eval()
        with torch.no_grad():
            model(row)

    def measure_loss() -> float:
        model.eval()
        with torch.no_grad():
            return F.mse_loss(model(batch[0]), batch[1]).item()

    def epoch() -> None:
        model.train()
        loss = F.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append((loss.item(), measure_loss()))

    calls: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
        "predict of one row": (predict, lambda n: [learn.predict(row) for _ in range(n)]),
        "validate, one batch": (measure_loss, lambda n: [learn.validate() for _ in range(n)]),
        "an epoch of 1 + 1 batches": (epoch, learn.fit),
    }
    print(f"\n{'us per call':27} {'by hand':>8} {'learner':>8} {'more':>8}")
    for name, (by_hand, ours) in calls.items():
        ours(N_CALLS)
        taken = [
            (in_process(by_hand, number=N_CALLS), in_process(partial(ours, N_CALLS), number=1))
            for _ in range(10 * n_rounds)
        ]
        one, other = (low(column) / N_CALLS * 1e6 for column in zip(*taken, strict=True))
        print(f"{name:27} {one:8.1f} {other:8.1f} {other - one:+8.1f}")
    history = History()
    history.rows += [{"epoch": n, "train_loss": 0.5, "valid_loss": 1 / (n + 1)} for n in range(1_000_000)]
    for name, show in (("repr", repr), ("HTML", History._repr_html_)):
        print(f"{name} of a history of a million epochs: {timeit(partial(show, history), number=1):.4f} s")


def low(times: Sequence[float]) -> float:
    """The time that one in ten rounds is below."""
    return sorted(times)[len(times) // 10]


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(n_rounds: int = 5, n_items: int = 1_000_000, n_layers: int = 1) -> None:
    found: dict[str, list[Row]] = {way: [] for way in WAYS}
    for _ in range(n_rounds):
        for way in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[way].append(pool.submit(measure, way, n_items, n_layers).result())
    print(f"{n_items} items, {n_layers} layers, {n_rounds} rounds, torch {torch.__version__}")
    print(f"{'':18} {'seconds':>8} {'cpu s':>8} {'us/batch':>9} {'peak MB':>8} {'added MB':>9}")
    for way, rows in found.items():
        seconds, work, batch, whole, added = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{way:18} {seconds:8.3f} {work:8.3f} {batch:9.1f} {whole:8.0f} {added:9.0f}")
    short_calls(n_rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["short"]:
        short_calls(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
