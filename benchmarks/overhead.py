"""The overhead of the loop on the article's problem, compared with a plain loop: microseconds per step.

Run: python benchmarks/overhead.py [pairs], or python benchmarks/overhead.py tools [width]

The plain loop does forward, loss, backward, step and zero_grad, and records nothing. The recording loop
also raises an error at NaN, records the loss and rate of each step and, for each epoch, the mean loss and
one metric by number of items, like our defaults. Ours and the plain loop take turns within one fit, a
hundred steps at a time, in one process, on one thread: one epoch (or a hundred epochs of one batch) of
ours, then as many steps of the plain loop, so that both see the same noise. The figures are medians over
the pairs. The plain loop compared with itself shows the remaining noise. The figures do not include the
start and end of a fit; the last table shows these.

The second table leaves torch out: the operations do nothing, so the processor times are those of the loop and
its callbacks alone, for the best round. It varies less, and its times are lower, because nothing else evicts
the processor's caches.

With `tools` it shows the processor time of `learn.check()` and `learn.cost(20)` for a large model (50 million
parameters, AdamW), in steps of a hand-written loop.
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
from beside.works import Quadratic, article_items
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Callback, LearnerProtocol, Metrics, Order, ZeroGrad
from learner import Data, Learner
from learner.engine.composition import DEFAULT_CALLBACKS

N_STEPS = 1000
TURN = 100  # steps
RATE = 1e-5


class EpochCallback(Callback):
    """Runs before each epoch and does nothing."""

    def before_epoch(self, learn):
        pass


class BatchCallback(Callback):
    """Runs after each batch and does nothing."""

    def after_batch(self, learn):
        pass


def batches(n_steps: int) -> list[tuple[Tensor, Tensor]]:
    return [article_items()] * n_steps


def plain_loop(n_epochs: int, n_steps: int) -> Callable[[], None]:
    model, data = Quadratic(), batches(n_steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def _run() -> None:
        for _ in range(n_epochs):
            for inputs, targets in data:
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    return _run


def mae(preds: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    return (preds - targets).abs().mean()


def recording_loop(n_epochs: int, n_steps: int) -> Callable[[], None]:
    """A plain loop that records the loss, the rate and a metric, and stops at NaN."""
    model, data = Quadratic(), batches(n_steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def _run() -> None:
        losses, rates, rows = [], [], []
        for epoch in range(n_epochs):
            start = time.perf_counter()
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
            rows.append({**row, "seconds": time.perf_counter() - start})
            print(*row.values())

    return _run


def learner(n_steps: int, callbacks: Iterable[Callback | type[Callback]] = (), **options) -> Learner:
    optimizer = partial(torch.optim.SGD, lr=RATE)
    return Learner(Quadratic(), Data(batches(n_steps)), F.mse_loss, optimizer, callbacks, **options)


class Turns(Callback):
    """Runs the plain loop after each hundred steps, and times both."""

    order = Order.SAVE

    def __init__(self, plain: Callable[[], None], n_epochs: int):
        super().__init__(name="turns")
        self.plain, self.n_epochs = plain, n_epochs  # epochs of ours per turn
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def after_epoch(self, learn):
        if (learn.epoch + 1) % self.n_epochs:
            return
        ended = time.perf_counter()
        if learn.epoch + 1 > self.n_epochs:  # the first turn includes the start of the fit
            self.ours.append(ended - self.start)
        self.plain()
        self.start = time.perf_counter()
        if self.ours:
            self.theirs.append(self.start - ended)


def in_turns(
    plain: Callable[[], None], n_epochs: int, pairs: int, callbacks: Iterable[Callback] = (), **options
) -> Turns:
    """Fit a learner in turn with a plain loop; both take `TURN` steps in `n_epochs` epochs."""
    turns = Turns(plain, n_epochs)
    learn = learner(TURN // n_epochs, [*callbacks, turns], **options)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        learn.fit(n_epochs * (pairs + 1))
    return turns


class Idle(Learner):
    """A learner whose operations do nothing."""

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
    """Implements `zero_grad` and does nothing."""

    def zero_grad(self, learn: LearnerProtocol) -> None:
        pass


def idle(n_epochs: int, n_steps: int, *callbacks: Callback, defaults=()) -> Callable[[], object]:
    learn = Idle(
        Quadratic(),
        Data(batches(n_steps)),
        F.mse_loss,
        partial(torch.optim.SGD, lr=RATE),
        [IdleZeroGrad(), *callbacks],
        defaults=tuple(defaults),
    )
    return lambda: learn.fit(n_epochs)


def hundred(make: type[Callback]) -> list[Callback]:
    return [make(name=f"empty_{number}") for number in range(100)]


def main(pairs: int) -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, medians of {pairs} pairs of {TURN} steps")
    print(f"{'us per step':<52}{'ours':>9}{'plain':>9}{'more':>9}{'ratio':>9}")
    none = {"defaults": ()}
    for n_epochs in (1, TURN):
        print(f"an epoch of {TURN} batches" if n_epochs == 1 else "\nepochs of one batch")
        plain, recording = (make(n_epochs, TURN // n_epochs) for make in (plain_loop, recording_loop))
        beside = partial(in_turns, plain, n_epochs, pairs)
        show_noise("plain loop and itself", plain, pairs)
        show("ZeroGrad only", beside([ZeroGrad()], **none))
        show("and 100 callbacks that run each epoch", beside([ZeroGrad(), *hundred(EpochCallback)], **none))
        show("and 100 callbacks that run each batch", beside([ZeroGrad(), *hundred(BatchCallback)], **none))
        show("defaults", beside())
        for left_out in DEFAULT_CALLBACKS if n_epochs == TURN else ():
            if left_out is not ZeroGrad:
                rest = tuple(each for each in DEFAULT_CALLBACKS if each is not left_out)
                show(f"defaults without {left_out.__name__}", beside(defaults=rest))
        show_noise("recording loop and itself", recording, pairs)
        ours = in_turns(recording, n_epochs, pairs, [Metrics(mae, on="train")])
        show("defaults and a metric, and the recording loop", ours)
    report_alone()


def show(name: str, turns: Turns) -> None:
    """Print a row."""
    ours, theirs = (statistics.median(each) / TURN * 1e6 for each in (turns.ours, turns.theirs))
    both = list(zip(turns.ours, turns.theirs, strict=True))
    more = statistics.median(mine - plain for mine, plain in both) / TURN * 1e6
    ratio = statistics.median(mine / plain for mine, plain in both)
    print(f"{name:<52}{ours:>9.1f}{theirs:>9.1f}{more:>+9.1f}{ratio:>9.3f}", flush=True)


def show_noise(name: str, plain: Callable[[], None], pairs: int) -> None:
    """Print a row that compares a loop with itself."""
    turns = Turns(plain, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        for times in [turns.ours, turns.theirs] * pairs:
            start = time.perf_counter()
            plain()
            times.append(time.perf_counter() - start)
    show(name, turns)


def report_alone(rounds: int = 7) -> None:
    """Print the time of the loop and its callbacks without torch, and the time of a fit of one step."""
    defaults = [each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"]
    works = {
        "ZeroGrad only": idle(1, N_STEPS),
        "and 100 callbacks that run each batch": idle(1, N_STEPS, *hundred(BatchCallback)),
        "defaults without Progress": idle(1, N_STEPS, defaults=defaults),
        "ZeroGrad only, epochs of one batch": idle(N_STEPS, 1),
        "defaults without Progress, epochs of one batch": idle(N_STEPS, 1, defaults=defaults),
        "and a metric": idle(N_STEPS, 1, Metrics(mae, on="train"), defaults=defaults),
    }
    print(f"\n{'the loop and its callbacks alone':<52}{'us per step':>12}")
    for name, run in works.items():
        print(f"{name:<52}{best(run, rounds) / N_STEPS * 1e6:>12.1f}")
    print(f"\n{'a fit of one step':<52}{'us':>9}")
    for name, defaults in (("ZeroGrad only", ()), ("defaults", DEFAULT_CALLBACKS)):
        learn = learner(1, [ZeroGrad()], defaults=defaults)
        print(f"{name:<52}{best(lambda: learn.fit(1), 10 * rounds) * 1e6:>9.1f}")  # noqa: B023


def best(run: Callable[[], object], rounds: int) -> float:
    """Processor time of the quickest round, in seconds."""
    with contextlib.redirect_stderr(io.StringIO()):
        return min(processor_time(run) for _ in range(rounds))


def tools(width: int = 4096) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [part for _ in range(3) for part in (nn.Linear(width, width), nn.GELU())]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    inputs, targets = torch.rand(16, width), torch.randint(10, (16,))
    make = partial(torch.optim.AdamW, lr=1e-4)
    learn = Learner(model, Data([(inputs, targets)] * 4, [(inputs, targets)] * 2), F.cross_entropy, make)
    optimizer = make(model.parameters())

    def _step() -> None:
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    calls: dict[str, Callable[[], object]] = {"check()": learn.check, "cost(20)": lambda: learn.cost(20)}
    _step()
    for name, call in calls.items():
        step = statistics.median(processor_time(_step) for _ in range(5))
        taken = processor_time(call)
        print(f"{name:<10} {taken:6.1f} s, or {taken / step:5.1f} steps of {step:.2f} s")


def processor_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        run()
    return time.process_time() - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["tools"]:
        tools(*map(int, sys.argv[2:]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
