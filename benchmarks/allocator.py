"""How the C allocator and other switches change a small conv net's step on a CPU, compared with a plain loop.

Run: python benchmarks/allocator.py [rounds]

The work is a conv net with batches of 128 images, 28 x 28, SGD, on one thread. Each setting of each round
runs in its own process, because what glibc frees depends on where blocks are in its heap. The settings of
a round take turns. The table shows medians over rounds: processor milliseconds per step (user and system
time, which other processes disturb less), the share of the system, page faults per step, peak resident
memory, and the ratio to the plain loop of the same round with its lowest and highest value, which show the
noise. It is printed after each round.

jemalloc and tcmalloc are measured if their library is found.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import gc
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Callback, ChannelsLast, LeanStep, ZeroGrad
from learner import Data, Learner
from learner.tools.allocator import keep_memory

N_WARM, N_BATCHES, BATCH_SIZE = 10, 40, 128
THRESHOLDS = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
TOP_PAD = {"MALLOC_TOP_PAD_": str(2**26)}
SGD = partial(torch.optim.SGD, lr=0.01)


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(16 * 7 * 7, 10))


def pictures() -> TensorDataset:
    n = (N_WARM + N_BATCHES) * BATCH_SIZE
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.rand(n, 1, 28, 28, generator=generator), torch.randint(10, (n,), generator=generator)
    )


class Gauge(Callback):
    """Measures processor use from the first step that counts to the last."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def after_batch(self, learn: Any) -> None:
        self.n += 1
        if self.n == N_WARM:
            self.start = resource.getrusage(resource.RUSAGE_SELF)

    def figures(self) -> list[float]:
        now, n = resource.getrusage(resource.RUSAGE_SELF), self.n - N_WARM
        system = (now.ru_stime - self.start.ru_stime) / n
        seconds = system + (now.ru_utime - self.start.ru_utime) / n
        return [seconds, system, (now.ru_minflt - self.start.ru_minflt) / n, now.ru_maxrss / 1e3]


def plain(gauge: Gauge, make: Any = SGD, layout: Any = torch.contiguous_format, sliced: bool = False) -> None:
    model = net().to(memory_format=layout)
    optimizer = make(model.parameters())
    if sliced:
        batches = Data.from_tensors(*pictures().tensors, BATCH_SIZE, valid=None, seed=0).train
    else:
        batches = DataLoader(pictures(), BATCH_SIZE, shuffle=True)
    for inputs, targets in batches:
        loss = F.cross_entropy(model(inputs.contiguous(memory_format=layout)), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        gauge.after_batch(None)


def ours(gauge: Gauge, *callbacks: Callback) -> None:
    data = Data.from_tensors(*pictures().tensors, BATCH_SIZE, valid=None, seed=0)
    learn = Learner(net(), data, F.cross_entropy, SGD, [gauge, *callbacks], defaults=())
    with contextlib.redirect_stdout(io.StringIO()):
        learn.fit(1)


def kept(run: Callable[[Gauge], None]) -> Callable[[Gauge], None]:
    def run_kept(gauge: Gauge) -> None:
        if not keep_memory():
            raise SystemExit("keep_memory() has no effect here: there is no glibc")
        run(gauge)

    return run_kept


def without_gc(gauge: Gauge) -> None:
    gc.collect()
    gc.freeze()
    gc.disable()
    plain(gauge)


SETTINGS: dict[str, tuple[dict[str, str], Callable[[Gauge], None]]] = {
    "plain loop": ({}, plain),
    "plain loop again (the noise)": ({}, plain),
    "keep_memory()": ({}, kept(plain)),
    "the same by environment variables": (THRESHOLDS, plain),
    "these and MALLOC_TOP_PAD_": ({**THRESHOLDS, **TOP_PAD}, plain),
    "no garbage collection": ({}, without_gc),
    "SGD(foreach=True)": ({}, partial(plain, make=partial(SGD, foreach=True))),
    "SGD(fused=True)": ({}, partial(plain, make=partial(SGD, fused=True))),
    "channels last": ({}, partial(plain, layout=torch.channels_last)),
    "Data.from_tensors in the plain loop": ({}, partial(plain, sliced=True)),
    "the same, keep_memory()": ({}, kept(partial(plain, sliced=True))),
    "from_tensors, ZeroGrad only": ({}, lambda gauge: ours(gauge, ZeroGrad())),
    "from_tensors, LeanStep": ({}, lambda gauge: ours(gauge, LeanStep())),
    "from_tensors, LeanStep, keep_memory()": ({}, kept(lambda gauge: ours(gauge, LeanStep()))),
    "from_tensors, LeanStep, ChannelsLast": ({}, lambda gauge: ours(gauge, LeanStep(), ChannelsLast())),
}
for library in ("jemalloc", "tcmalloc_minimal"):
    if found := ctypes.util.find_library(library):
        SETTINGS[library] = ({"LD_PRELOAD": found}, plain)


def run_alone(name: str) -> list[float]:
    """The figures of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **SETTINGS[name][0]}
    done = subprocess.run(
        [sys.executable, __file__, "--alone", name],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def report(rounds: dict[str, list[list[float]]]) -> None:
    head = f"{'processor ms per step':<42}{'ms':>8}{'ratio':>8}{'from':>7}{'to':>7}"
    print(f"{head}{'system':>8}{'page faults':>13}{'MB':>6}")
    for name, found in rounds.items():
        ratios = [one[0] / other[0] for one, other in zip(found, rounds["plain loop"], strict=True)]
        seconds, system, page_faults, megabytes = (median(column) for column in zip(*found, strict=True))
        spread = f"{median(ratios):>8.3f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
        shares = f"{system * 1e3:>8.2f}{page_faults:>13.0f}{megabytes:>6.0f}"
        print(f"{name:<42}{seconds * 1e3:>8.2f}{spread}{shares}")


def main(n_rounds: int) -> None:
    rounds: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    for number in range(n_rounds):
        for name, found in rounds.items():
            found.append(run_alone(name))
        print(f"torch {torch.__version__}, 1 thread, {number + 1} rounds of {N_BATCHES} steps")
        report(rounds)
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        torch.set_num_threads(1)
        gauge = Gauge()
        SETTINGS[sys.argv[2]][1](gauge)
        print(json.dumps(gauge.figures()))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
