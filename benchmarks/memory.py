"""The memory of a fit of a million steps, and of a fit of a larger model compared with a plain loop.

Run: python benchmarks/memory.py [steps], or python benchmarks/memory.py larger, or
python benchmarks/memory.py save [megabytes] [rounds], or
python benchmarks/memory.py epochs [number] [epochs per checkpoint]

The first part shows peak and growth of memory, and the time per step at every tenth of the fit. The model
has one weight, the batches one item; there is one epoch, with the defaults except Progress. The record of
a step is two numbers of eight bytes in the history, and two more during the epoch.

The second part trains an encoder of 8 million parameters for four steps with a validation of two batches,
each composition in its own process. It prints the peak bytes of all tensors, counted when each is created
and freed. In another process, which counts nothing, it prints the peak resident memory minus that after
the imports.

The third part writes a model of one large layer to a file, by hand and by `learn.save`, in turn: the memory
that the first call adds, each in its own process, and the time. By hand it is `torch.save` of the weights to
a new file, a wait for the disk, and a rename. Overwriting a file in place is faster, but may lose the old and
the new one. TMPDIR=/dev/shm leaves out the disk, which varies.

The fourth part is a fit of 4,000 epochs of one batch with a checkpoint after each: memory and time per epoch
at every tenth of the fit. `epochs 100000 100` fits 100,000 epochs, with a checkpoint after every hundredth.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    Checkpoint,
    LeanStep,
    LearnerProtocol,
    Metrics,
    MixedPrecision,
    ZeroGrad,
    accuracy,
)
from learner import Data, Learner
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.tools.live_bytes import LiveBytes


class Gauge(Callback):
    """Records resident memory and time at every tenth of the fit."""

    def __init__(self, n_steps: int):
        self.interval = n_steps // 10
        self.rows: list[tuple[int, float, float, float]] = []

    def before_train(self, learn: LearnerProtocol) -> None:
        if not self.rows:
            self.note(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and learn.global_step % self.interval == 0:
            self.note(learn)

    def note(self, learn: LearnerProtocol) -> None:
        self.rows.append((learn.global_step, resident(), time.perf_counter(), time.process_time()))

    def show(self) -> None:
        """Print a row for each tenth, and the growth of memory."""
        print(f"{'step':>9}{'megabytes':>11}{'us/step':>9}{'processor':>11}")
        for (*_, start, begun), (step, megabytes, end, done) in itertools.pairwise(self.rows):
            clock, processor = (each / self.interval * 1e6 for each in (end - start, done - begun))
            print(f"{step:>9}{megabytes:>11.1f}{clock:>9.1f}{processor:>11.1f}")
        growth = self.rows[-1][1] - self.rows[0][1]
        n_steps = self.rows[-1][0]
        print(f"growth over {n_steps} steps: {growth:.1f} MB, {growth * 1e6 / n_steps:.1f} bytes per step")


def resident() -> float:
    """Memory of this process in megabytes; on Linux the current value, elsewhere the peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(n_steps: int) -> None:
    fit(1, n_steps)


def epochs(n_epochs: int = 4000, interval: int = 1) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(n_epochs, 1, Checkpoint(Path(folder, "run"), every=f"{interval} epochs"))


def fit(n_epochs: int, n_steps: int, *callbacks: Callback) -> None:
    """Fit a weight, and print memory and time."""
    torch.set_num_threads(1)
    batch = (torch.ones(1, 1), torch.ones(1, 1))
    gauge = Gauge(n_epochs * n_steps)
    learn = Learner(
        nn.Linear(1, 1),
        Data(lambda: (batch for _ in range(n_steps)), [batch]),
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.01),
        [gauge, *callbacks],
        defaults=[each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"],
    )
    learn.fit(n_epochs)
    gauge.show()
    record = sum(len(values) * values.itemsize for values in learn.history.steps.values())
    print(f"the history's arrays: {record / 1e6:.1f} MB")


N_WORDS, WIDTH, LENGTH, BATCH_SIZE = 4096, 384, 32, 16


class Encoder(nn.Module):
    """Four layers over embedded words, and scores of a word for each position."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(N_WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 8, 2 * WIDTH, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, N_WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(words))).flatten(0, 1)


def texts(n: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        words = torch.randint(N_WORDS, (BATCH_SIZE, LENGTH), generator=generator)
        yield words, words.flatten()


def plain_loop() -> None:
    model = Encoder()
    optimizer = torch.optim.AdamW(model.parameters())
    for inputs, targets in texts():
        preds = model(inputs)
        loss = F.cross_entropy(preds, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        for inputs, targets in texts(2):
            preds = model(inputs)
            loss = F.cross_entropy(preds, targets)


def by_learner(*callbacks: Any, **options: Any) -> None:
    data = Data(texts, lambda: texts(2))
    Learner(Encoder(), data, F.cross_entropy, torch.optim.AdamW, callbacks, **options).fit(1)


def checkpointed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        by_learner(Checkpoint(Path(folder, "run"), "2 steps"))


LARGER: dict[str, Callable[[], None]] = {
    "plain loop": plain_loop,
    "ZeroGrad only": lambda: by_learner(ZeroGrad(), defaults=()),
    "defaults": by_learner,
    "defaults, a metric of both passes": lambda: by_learner(Metrics(accuracy, on="both")),
    "defaults, Checkpoint every 2 steps": checkpointed,
    "defaults, LeanStep": lambda: by_learner(LeanStep()),
    "defaults, MixedPrecision": lambda: by_learner(MixedPrecision("bf16")),
}


def measure(name: str, count: bool) -> float:
    """Peak megabytes: of tensors, or resident."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with (
        contextlib.redirect_stdout(io.StringIO()),
        LiveBytes() if count else contextlib.nullcontext() as gauge,
    ):
        LARGER[name]()
    return gauge.peak / 1e6 if gauge else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before


def larger() -> None:
    print(f"{'peak megabytes':<40}{'tensors':>9}{'ratio':>8}{'resident':>10}{'ratio':>8}")
    first: list[float] = []
    for name in LARGER:
        found = []
        for count in (True, False):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                found.append(alone.submit(measure, name, count).result())
        first = first or found
        tensors, resident_ = found
        ratios = tensors / first[0], resident_ / first[1]
        print(f"{name:<40}{tensors:>9.1f}{ratios[0]:>8.3f}{resident_:>10.1f}{ratios[1]:>8.3f}", flush=True)


def save_by_hand(learn: Learner, path: Path) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save({"model": learn.model.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


WAYS: dict[str, Callable[[Learner, Path], Any]] = {"by hand": save_by_hand, "learn.save": Learner.save}


def time_saves(ways: list[str], megabytes: int, rounds: int) -> tuple[float, list[list[list[float]]]]:
    """Megabytes that the first call adds to this process; clock and processor times of each round and way."""
    torch.set_num_threads(1)
    width = int((megabytes * 1e6 / 4) ** 0.5)
    learn = Learner(nn.Linear(width, width, bias=False), Data([]), F.mse_loss)
    before, peak, taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            taken.append([])
            for way in ways:
                start = time.perf_counter(), time.process_time()
                WAYS[way](learn, Path(folder, way))
                taken[-1].append([time.perf_counter() - start[0], time.process_time() - start[1]])
                peak = peak or (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    return peak, taken


def save(megabytes: int = 1000, rounds: int = 7) -> None:
    print(f"a model of {megabytes} MB; medians of {rounds} rounds, and their range")
    for way in WAYS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            peak, _ = alone.submit(time_saves, [way], megabytes, 1).result()
        print(f"{way:<20} adds {peak:.0f} MB")
    _, taken = time_saves(list(WAYS), megabytes, rounds + 1)
    for number, kind in enumerate(("clock", "processor")):
        hand, ours = ([each[way][number] for each in taken[1:]] for way in range(2))
        ratios = [one / other for one, other in zip(ours, hand, strict=True)]
        rows = {"by hand, s": hand, "learn.save, s": ours, "ratio": ratios}
        for what, numbers in rows.items():
            middle, low, high = statistics.median(numbers), min(numbers), max(numbers)
            print(f"{kind:<10}{what:<15}{middle:6.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    if sys.argv[1:] == ["larger"]:
        larger()
    elif sys.argv[1:2] == ["save"]:
        save(*map(int, sys.argv[2:]))
    elif sys.argv[1:2] == ["epochs"]:
        epochs(*map(int, sys.argv[2:]))
    else:
        main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000)
