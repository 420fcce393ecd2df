"""How long training waits for its checkpoints, written at once and in a thread.

Run: python benchmarks/saves.py [rounds] [megabytes]

A network of three layers trains with Adam on one process, on two with DDP and on two with FSDP, each with one
thread. Weights and optimizer state have the given size in all. Each composition trains 31 steps with no
checkpoint, with `Checkpoint(every="15 steps")`, and with the same and `asynchronous=True`, in turn.

The table has medians over the rounds: milliseconds of a step, milliseconds that the steps wait for a save,
their share of the time of all steps, and that time compared with training without a checkpoint. The last save
is not counted, because a fit waits for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from distributed import QUIET, in_ranks
from torch import nn
from torch.nn import functional as F

from callbacks import Checkpoint, Distributed
from learner import Data, Learner

INTERVAL, N_SAVES = 15, 2
KINDS = {"one process": (1, None), "2 ranks, ddp": (2, "ddp"), "2 ranks, fsdp": (2, "fsdp")}
WAYS: dict[str, dict[str, Any] | None] = {"none": None, "at once": {}, "asynchronous": {"asynchronous": True}}


class Waits(Checkpoint):
    """Notes how long each step waits for it."""

    def before_fit(self, learn: Any) -> None:
        super().before_fit(learn)
        self.seconds = 0.0

    def after_batch(self, learn: Any) -> None:
        begun = time.perf_counter()
        super().after_batch(learn)
        self.seconds += time.perf_counter() - begun


def learner_of(kind: str | None, megabytes: float, callbacks: list[Any]) -> Learner:
    width = round((megabytes * 1e6 / 4 / 3 / 3) ** 0.5)  # three layers; Adam has two numbers per weight
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))
    n_items = 64 * (INTERVAL * N_SAVES + 1)
    data = Data.from_tensors(torch.randn(n_items, width), torch.zeros(n_items, width), 64, seed=0)
    first = [] if kind is None else [Distributed(kind)]  # type: ignore[arg-type]
    adam = partial(torch.optim.Adam, lr=1e-4)
    return Learner(model, data, F.mse_loss, adam, [*first, *callbacks], defaults=QUIET)


def measured(kind: str | None, megabytes: float, options: dict[str, Any] | None) -> tuple[float, float]:
    """Seconds of all steps, and seconds for which they waited."""
    with tempfile.TemporaryDirectory() as folder:
        saves = [] if options is None else [Waits(Path(folder, "run"), f"{INTERVAL} steps", **options)]
        learn = learner_of(kind, megabytes, saves)
        times: list[float] = []
        train = learn.loop.train

        def _timed(learn: Any) -> None:
            begun = time.perf_counter()
            train(learn)
            times.append(time.perf_counter() - begun)

        learn.loop.train = _timed  # type: ignore[method-assign]
        learn.fit(1)
        return times[0], saves[0].seconds if saves else 0.0


def rounds(kind: str | None, megabytes: float, n_rounds: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(n_rounds + 1):
        for way, options in WAYS.items():
            result = measured(kind, megabytes, options)
            if number:  # the first round warms up
                found[way].append(result)
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> None:
    n_steps = INTERVAL * N_SAVES
    for way, pairs in found.items():
        seconds, waited = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratios = [pair[0] / plain[0] for pair, plain in zip(pairs, found["none"], strict=True)]
        print(
            f"  {way:<14}{(seconds - waited) / n_steps * 1e3:9.1f}{waited / N_SAVES * 1e3:16.0f}"
            f"{waited / seconds:14.1%}{statistics.median(ratios):12.3f}"
        )


def main() -> None:
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    megabytes = float(sys.argv[2]) if len(sys.argv) > 2 else 200
    print(f"torch {torch.__version__}, {megabytes:.0f} MB, a save each {INTERVAL} steps, {n_rounds} rounds")
    for name, (size, kind) in KINDS.items():
        run: Callable[..., Any] = partial(rounds, kind, megabytes, n_rounds)
        print(f"\n{name:<16}{'ms per step':>9}{'ms per save':>14}{'share':>14}{'time':>12}", flush=True)
        table(in_ranks(size, run))


if __name__ == "__main__":
    main()
