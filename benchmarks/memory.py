"""What a fit of a million steps holds: peak and growth of memory, and the time of a step at both ends.

Run: python benchmarks/memory.py [steps]

One model of one weight, batches of one item, one epoch, the defaults without Progress. The record of a step
is two numbers of eight bytes in the history, and two more while the epoch lasts.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, LearnerProtocol
from learner import Data, Learner
from learner.composition import DEFAULT_CALLBACKS


class Gauge(Callback):
    """Note resident memory and time at every tenth of the fit."""

    def __init__(self, n_steps: int):
        self.interval = n_steps // 10
        self.rows: list[tuple[int, float, float]] = []

    def before_train(self, learn: LearnerProtocol) -> None:
        self.note(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.global_step % self.interval == 0:
            self.note(learn)

    def note(self, learn: LearnerProtocol) -> None:
        self.rows.append((learn.global_step, resident(), time.perf_counter()))


def resident() -> float:
    """Memory of this process in megabytes; on Linux now, elsewhere the peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(n_steps: int) -> None:
    torch.set_num_threads(1)
    batch = (torch.ones(1, 1), torch.ones(1, 1))
    gauge = Gauge(n_steps)
    learn = Learner(
        nn.Linear(1, 1),
        Data(lambda: (batch for _ in range(n_steps))),
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.01),
        [gauge],
        defaults=[each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"],
    )
    learn.fit(1)
    print(f"{'step':>9}{'megabytes':>11}{'us/step':>9}")
    for (_, _, before), (step, megabytes, now) in itertools.pairwise(gauge.rows):
        print(f"{step:>9}{megabytes:>11.1f}{(now - before) / gauge.interval * 1e6:>9.1f}")
    growth = gauge.rows[-1][1] - gauge.rows[0][1]
    print(f"growth over {n_steps} steps: {growth:.1f} MB, {growth * 1e6 / n_steps:.1f} bytes a step")
    record = sum(len(values) * values.itemsize for values in learn.history.steps.values())
    print(f"the history's arrays: {record / 1e6:.1f} MB")


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000)
