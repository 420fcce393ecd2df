"""Time and peak memory of `get_preds`, and the time of short calls, compared with hand-written loops.

Run: python benchmarks/get_preds.py [rounds] [items] [layers]

A linear layer, or several with ReLU between them, map 100 numbers to 100, for a million items in batches of
1000. Two loops by hand keep the predictions in memory: the usual one makes a list and joins it at the end;
the quickest one writes each batch into tensors of the final size. On disk, the loop by hand writes each
batch to a file. All run in one process, in a random order in each round, as the place of a process's memory
changes the time of a batch by a tenth. The table has the medians: microseconds of the processor per batch,
and the ratio to the quickest loop by hand in the same round, with its quartiles. Memory is measured once, in
a process for each way: the peak, and the part that the call added.

A second table has calls of a small network that take less than a millisecond: a prediction of one row, a
validation of one batch, and an epoch of two batches. By hand and with a learner, they take turns. The
figures are processor times, as the lowest tenth of the rounds. With `short` only this table is printed.
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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
in_process = partial(timeit, timer=time.process_time)


def by_hand(model: nn.Module, loader: TensorLoader, _folder: Path) -> None:
    preds, targets = torch.empty(loader.n_items, SIZE), torch.empty(loader.n_items)
    start = 0
    with torch.no_grad():
        for inputs, wanted in loader:
            end = start + len(inputs)
            preds[start:end], targets[start:end] = model(inputs), wanted
            start = end


def usual_by_hand(model: nn.Module, loader: TensorLoader, _folder: Path) -> None:
    preds, targets = [], []
    with torch.no_grad():
        for inputs, wanted in loader:
            preds.append(model(inputs))
            targets.append(wanted)
    torch.cat(preds), torch.cat(targets)


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
    "by hand, list and cat": usual_by_hand,
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


def problem(n_items: int, n_layers: int) -> tuple[nn.Module, TensorLoader]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return network(n_layers), TensorLoader((torch.rand(n_items, SIZE), torch.rand(n_items)), BATCH)


def seconds(way: str, model: nn.Module, loader: TensorLoader) -> float:
    """Processor time of a call, in a new folder, as ext4 writes a file at once that replaces one."""
    with tempfile.TemporaryDirectory() as folder:
        return in_process(partial(WAYS[way], model, loader, Path(folder)), number=1)


def memory(way: str, n_items: int, n_layers: int) -> tuple[float, float]:
    """Peak memory of the process, and what the call added, in MB."""
    model, loader = problem(n_items, n_layers)
    seconds(way, model, problem(2 * BATCH, n_layers)[1])  # the first call loads code
    before = peak()
    seconds(way, model, loader)
    return peak(), peak() - before


def long_calls(n_rounds: int, n_items: int, n_layers: int) -> None:
    """Print the time per batch, the ratio to the loop by hand, and the memory."""
    memories = {}  # before this process takes memory, as a new process reports at least that peak
    for way in WAYS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            memories[way] = pool.submit(memory, way, n_items, n_layers).result()
    model, loader = problem(n_items, n_layers)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for n in range(n_rounds + 1):
        for way in random.sample([*WAYS], len(WAYS)):
            found = seconds(way, model, loader)
            if n:  # the first round loads code
                taken[way].append(found)
    print(f"{n_items} items, {n_layers} layers, {n_rounds} rounds, torch {torch.__version__}")
    print(f"{'':22} {'us/batch':>8} {'ratio':>6} {'quartiles':>14} {'peak MB':>8} {'added MB':>9}")
    for way, times in taken.items():
        base = taken["by hand, to disk" if "disk" in way or "to=" in way else "by hand"]
        low, ratio, high = quartiles([one / other for one, other in zip(times, base, strict=True)])
        per_batch = 1e6 * statistics.median(times) / len(loader)
        (whole, added), spread = memories[way], f"{low:.3f} to {high:.3f}"
        print(f"{way:22} {per_batch:8.1f} {ratio:6.3f} {spread:>14} {whole:8.0f} {added:9.0f}")


def quartiles(ratios: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile."""
    return statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * [*ratios]


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


def main(n_rounds: int = 9, n_items: int = 1_000_000, n_layers: int = 1) -> None:
    long_calls(n_rounds, n_items, n_layers)
    short_calls(n_rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["short"]:
        short_calls(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
