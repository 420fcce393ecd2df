"""What the loop costs beside a hand-written one, on the article's problem: microseconds a step.

Run: python benchmarks/overhead.py [rounds]

Every round runs every composition once, in turn, in this one process, on one thread; the figures are medians
over rounds of the difference and ratio to a plain loop of the same round. The plain loop does forward, loss,
backward, step and zero_grad; it records nothing. The one that records keeps the loss and rate of each step
and, of each epoch, the mean loss and one metric, by number of items, as our defaults do. A second row of the
same loop shows the noise.

The second table leaves torch out: the operations do nothing, so what is timed is the loop and its plug-ins
alone, with the best of the rounds. It is steadier, and kinder: nothing else empties the processor's caches.
"""

from __future__ import annotations

import contextlib
import io
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Callback, LearnerProtocol, Metrics, ZeroGrad
from learner import Data, Learner
from learner.composition import DEFAULT_CALLBACKS

N_STEPS = 1000
RATE = 1e-5


class Quadratic(nn.Module):
    """The article's a * t**2 + b * t + c."""

    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.ones(3))

    def forward(self, t: Tensor) -> Tensor:
        a, b, c = self.params
        return a * t**2 + b * t + c


class EpochListener(Callback):
    """Listens, but to no batch event."""

    def before_epoch(self, learn):
        pass


class BatchListener(Callback):
    """Listens to each batch."""

    def after_batch(self, learn):
        pass


def batches(n_steps: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(2021)
    t = torch.arange(20).float()
    speed = torch.rand(20) * 5 + 0.8 * (t - 7.5) ** 2 + 1
    return [(t, speed)] * n_steps


def plain_loop(n_epochs: int, n_steps: int) -> Callable[[], None]:
    model, data = Quadratic(), batches(n_steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def run() -> None:
        for _ in range(n_epochs):
            for inputs, targets in data:
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    return run


def mae(preds: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    return (preds - targets).abs().mean()


def recording_loop(n_epochs: int, n_steps: int) -> Callable[[], None]:
    """The plain loop of one who wants to see the loss, the rate and a metric, and to stop at NaN."""
    model, data = Quadratic(), batches(n_steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def run() -> None:
        losses, rates, rows = [], [], []
        for epoch in range(n_epochs):
            begun = time.perf_counter()
            total_loss, total_error, n_items = 0.0, 0.0, 0
            for inputs, targets in data:
                preds = model(inputs)
                loss = F.mse_loss(preds, targets)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} in epoch {epoch}")
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(value)
                rates.append(optimizer.param_groups[0]["lr"])
                n = len(targets)
                total_loss += value * n
                total_error += mae(preds.detach(), targets).item() * n
                n_items += n
            row = {"epoch": epoch, "train_loss": total_loss / n_items, "train_mae": total_error / n_items}
            rows.append({**row, "seconds": time.perf_counter() - begun})
            print(*row.values())

    return run


def learner(n_epochs: int, n_steps: int, **options) -> Callable[[], None]:
    learn = Learner(
        Quadratic(), Data(batches(n_steps)), F.mse_loss, partial(torch.optim.SGD, lr=RATE), **options
    )
    return lambda: learn.fit(n_epochs) and None


class Idle(Learner):
    """Does nothing where a learner would compute."""

    ready = (torch.ones((), requires_grad=True) * 1, torch.ones(20, 1))

    def forward(self) -> None:
        self.preds = self.ready[1]

    def compute_loss(self) -> None:
        self.loss_grad = self.ready[0]

    def backward(self) -> None:
        pass

    def step(self) -> None:
        pass


class IdleZeroGrad(Callback):
    """Zeroes nothing."""

    def zero_grad(self, learn: LearnerProtocol) -> None:
        pass


def idle(n_epochs: int, n_steps: int, defaults: Iterable[type[Callback]]) -> Callable[[], None]:
    model = Quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    data = Data(batches(n_steps))
    learn = Idle(model, data, F.mse_loss, optimizer, [IdleZeroGrad()], defaults=tuple(defaults))
    return lambda: learn.fit(n_epochs) and None


def many(listener: type[Callback]) -> list[Callback]:
    return [ZeroGrad(), *(listener(name=f"listener_{number}") for number in range(100))]


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    bare = {"defaults": (), "callbacks": [ZeroGrad()]}
    measured = {"defaults": [each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"]}
    with_metric = [Metrics(mae, on="train")]
    report(
        {
            "plain loop": plain_loop(1, N_STEPS),
            "plain loop again (the noise)": plain_loop(1, N_STEPS),
            "ZeroGrad only": learner(1, N_STEPS, **bare),
            "ZeroGrad and 100 plug-ins without batch events": learner(
                1, N_STEPS, defaults=(), callbacks=many(EpochListener)
            ),
            "ZeroGrad and 100 plug-ins that hear each batch": learner(
                1, N_STEPS, defaults=(), callbacks=many(BatchListener)
            ),
            "defaults": learner(1, N_STEPS),
        },
        rounds,
    )
    report(
        {
            "plain loop, epochs of one batch": plain_loop(N_STEPS, 1),
            "ZeroGrad only": learner(N_STEPS, 1, **bare),
            "defaults": learner(N_STEPS, 1),
        },
        rounds,
    )
    report(
        {
            "plain loop that records": recording_loop(1, N_STEPS),
            "the same again (the noise)": recording_loop(1, N_STEPS),
            "plain loop": plain_loop(1, N_STEPS),
            "defaults and a metric": learner(1, N_STEPS, callbacks=with_metric),
        },
        rounds,
    )
    report(
        {
            "plain loop that records, epochs of one batch": recording_loop(N_STEPS, 1),
            "plain loop": plain_loop(N_STEPS, 1),
            "defaults and a metric": learner(N_STEPS, 1, callbacks=with_metric),
        },
        rounds,
    )
    alone = {
        "ZeroGrad only": idle(1, N_STEPS, ()),
        "defaults without Progress": idle(1, N_STEPS, measured["defaults"]),
        "ZeroGrad only, epochs of one batch": idle(N_STEPS, 1, ()),
        "defaults without Progress, epochs of one batch": idle(N_STEPS, 1, measured["defaults"]),
    }
    print(f"\n{'the loop and its plug-ins alone':<52}{'us/step':>9}")
    for name, values in measure(alone, rounds).items():
        print(f"{name:<52}{min(values) / N_STEPS * 1e6:>9.1f}")


def measure(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, run in works.items():
            begun = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: values[1:] for name, values in seconds.items()}


def report(works: dict[str, Callable[[], None]], rounds: int) -> None:
    """Print a table beside the first of them."""
    seconds = measure(works, rounds)
    first = next(iter(seconds.values()))
    print(f"\ntorch {torch.__version__}, 1 thread, {rounds} rounds of {N_STEPS} steps, beside the first line")
    print(f"{'composition':<52}{'us/step':>9}{'beside':>14}{'ratio':>8}")
    for name, values in seconds.items():
        pairs = list(zip(values, first, strict=True))
        extra = statistics.median((value - other) / N_STEPS * 1e6 for value, other in pairs)
        ratio = statistics.median(value / other for value, other in pairs)
        print(f"{name:<52}{statistics.median(values) / N_STEPS * 1e6:>9.1f}{extra:>+14.1f}{ratio:>8.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
