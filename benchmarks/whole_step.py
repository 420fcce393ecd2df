"""The time of a step with `WholeStep`, compared with a hand-written loop, and the time to compile it.

Run: python benchmarks/whole_step.py [rounds] [--works 1 7]
     python benchmarks/whole_step.py --tensors 10 100 300 [--backend eager]

Every round runs every composition once, in turn, in this one process, on one thread. The ratios compare with
the plain loop of the same round, so other work on the machine affects both, and are medians over rounds. The
plain loop does forward, loss, backward, step and zero_grad; "the model compiled" is the same loop with
`torch.compile(model)`. Each run goes through the data twice, and the second time is timed, so compiling and
the comparison of the first steps are not included. "compiling" is the seconds that the first run spent on it,
with the existing cache on disk. "pays after" is the number of steps that save as much time, compared with the
same learner with `ZeroGrad`. The last column is the loss of the last round's weights on the first batch.
Compare it only between rows with the same data: the plain loop of the MLP has another order of items, and the
transformer has dropout.

With `--tensors`, it compiles models with the given numbers of parameter tensors (half as many linear layers,
32 wide), without a cache on disk, after a small model that loads the compiler. The table has the clock time,
the processor time including child processes, and the time of the guards in each step, compared with a plain
step with Adam. The shortest of many tries is taken, because other work on the machine only adds time.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from beside.works import Quadratic, article_items, conv_net, mlp, pictures
from lean import BATCH_SIZE, N_ITEMS, loader
from overhead import RATE
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, GradientAccumulation, LeanStep, WholeStep, ZeroGrad
from callbacks.fast.guarded_program import Program
from learner import Data, Learner

N_STEPS = 1000
#: Seconds of a run, and of compiling before it; the model at the end.
Run = Callable[[], tuple[float, float, nn.Module]]


class Watch(Callback):
    """Times the second epoch of a fit."""

    begun = seconds = 0.0

    def before_train(self, learn: Any) -> None:
        if learn.epoch == 1:
            self.begun = time.perf_counter()

    def after_fit(self, learn: Any) -> None:
        self.seconds = time.perf_counter() - self.begun


def plain(
    model: nn.Module, data: Any, loss_func: Any, make: Any, n_added: int, *, is_compiled: bool = False
) -> Run:
    optimizer = make(model.parameters())
    called: Any = torch.compile(model) if is_compiled else model

    def once() -> None:
        for number, (inputs, targets) in enumerate(data, 1):
            loss = loss_func(called(inputs), targets)
            (loss / n_added if n_added > 1 else loss).backward()
            if not number % n_added:
                optimizer.step()
                optimizer.zero_grad()

    def run() -> tuple[float, float, nn.Module]:
        begun = time.perf_counter()
        inputs, _ = next(iter(data))
        called(inputs)
        compiling = time.perf_counter() - begun if is_compiled else 0.0
        once()  # the learner trains for two epochs, too; the second is timed
        begun = time.perf_counter()
        once()
        return time.perf_counter() - begun, compiling, model

    return run


def learner(make_model: Any, data: Any, loss_func: Any, make: Any, n_added: int, stepper: Any) -> Run:
    """Two epochs; the second is timed."""
    others = [GradientAccumulation(n_added)] if n_added > 1 else []
    learn = Learner(make_model(), data, loss_func, make, [stepper, Watch(), *others], defaults=())

    def run() -> tuple[float, float, nn.Module]:
        learn.fit(2)
        if isinstance(stepper, WholeStep) and stepper.fallback:
            raise RuntimeError(stepper.fallback)
        compiling = stepper.compile_seconds if isinstance(stepper, WholeStep) else 0.0
        return learn.callbacks[Watch].seconds, compiling, learn.model

    return run


def works_of(
    make_model: Any, plain_data: Any, data: Any, loss_func: Any, make: Any, n_added: int = 1
) -> dict[str, Run]:
    plains = partial(plain, loss_func=loss_func, make=make, n_added=n_added)
    learners = partial(learner, make_model, loss_func=loss_func, make=make, n_added=n_added)
    return {
        "plain loop": plains(make_model(), plain_data()),
        "plain loop again (the noise)": plains(make_model(), plain_data()),
        "the model compiled": plains(make_model(), plain_data(), is_compiled=True),
        "ZeroGrad": learners(data(), stepper=ZeroGrad()),
        "LeanStep": learners(data(), stepper=LeanStep()),
        "WholeStep": learners(data(), stepper=WholeStep()),
    }


def report(title: str, works: dict[str, Run], rounds: int, n_steps: int, loss_of: Any) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in works}
    compiling: dict[str, float] = {}
    models: dict[str, nn.Module] = {}
    for number in range(rounds + 1):
        for name, run in works.items():
            spent, made, models[name] = run()
            seconds[name].append(spent)
            if not number:
                compiling[name] = made
    print(f"\n{title:<44}{'us/step':>9}{'ratio':>8}{'compiling':>11}{'pays after':>14}  loss")
    plain_seconds = seconds["plain loop"][1:]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], plain_seconds, strict=True))
        middle = statistics.median(values[1:]) / n_steps
        saved = (statistics.median(seconds["ZeroGrad"][1:]) / n_steps if "Step" in name else 0.0) - middle
        pays = f"{compiling[name] / saved:,.0f} steps" if compiling[name] and saved > 0 else ""
        made = f"{compiling[name]:.1f} s" if compiling[name] else ""
        print(f"{name:<44}{middle * 1e6:>9.1f}{ratio:>8.3f}{made:>11}{pays:>14}  {loss_of(models[name]):.7g}")


def article(rounds: int, make: Any, title: str) -> None:
    data = [article_items()] * N_STEPS
    works = works_of(Quadratic, lambda: data, lambda: Data(data), F.mse_loss, make)
    report(
        f"the article's fit, {title}",
        works,
        rounds,
        N_STEPS,
        lambda model: loss_on(model, data[0], F.mse_loss),
    )


def digits(rounds: int, make: Any, title: str, n_added: int = 1) -> None:
    items = pictures(N_ITEMS)
    first = tuple(each[:BATCH_SIZE] for each in items)
    tensors = partial(Data.from_tensors, *items, batch_size=BATCH_SIZE, seed=0)
    works = works_of(mlp, loader, tensors, F.cross_entropy, make, n_added)
    report(
        f"MLP 784-128-10, from tensors, {title}", works, rounds, N_ITEMS // BATCH_SIZE,
        lambda model: loss_on(model, first, F.cross_entropy),
    )  # fmt: skip


def convolutions(rounds: int) -> None:
    draws = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(64, 784, generator=draws), torch.randint(10, (64,), generator=draws)) for _ in range(20)
    ]
    make = partial(torch.optim.SGD, lr=0.01)
    works = works_of(conv_net, lambda: pairs, lambda: Data(pairs), F.cross_entropy, make)
    report(
        "small conv net, batch 64, SGD", works, rounds, len(pairs),
        lambda model: loss_on(model.eval(), pairs[0], F.cross_entropy),
    )  # fmt: skip


class Transformer(nn.Module):
    """Four layers over sequences of 32 words, with a class for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
        self.words = nn.Embedding(100, 64)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.words(words)).mean(1))


def sequences(rounds: int) -> None:
    draws = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randint(100, (16, 32), generator=draws), torch.randint(10, (16,), generator=draws))
        for _ in range(20)
    ]
    make = partial(torch.optim.AdamW, lr=1e-3)
    works = works_of(Transformer, lambda: pairs, lambda: Data(pairs), F.cross_entropy, make)
    report(
        "transformer of 4 layers, batch 16, AdamW", works, rounds, len(pairs),
        lambda model: loss_on(model.eval(), pairs[0], F.cross_entropy),
    )  # fmt: skip


def loss_on(model: nn.Module, batch: Any, loss_func: Any) -> float:
    with torch.no_grad():
        return loss_func(model(batch[0]), batch[1]).item()


def by_tensors(numbers: list[int], backend: str) -> None:
    """The time to compile, and the time of the guards in each step, by the number of parameter tensors."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        program_of(4, backend)
        titles = ("compiling", "processor", "per tensor", "guards", "plain step", "share")
        print(f"{'tensors':>8}" + "".join(f"{each:>12}" for each in titles))
        for number in numbers:
            begun, spent = time.perf_counter(), processor_seconds()
            program, here = program_of(number, backend)
            wall, spent = time.perf_counter() - begun, processor_seconds() - spent
            with torch.no_grad():  # as it was compiled
                assert program.fits(here)
                guards = shortest(partial(program.fits, here), 20)
            step = shortest(partial(plain_step, here, torch.optim.Adam(here["params"])), 3)
            print(
                f"{number:>8}{wall:>10.1f} s{spent:>10.1f} s{1e3 * spent / number:>9.0f} ms"
                f"{guards * 1e6:>9.1f} us{step * 1e3:>9.2f} ms{guards / step:>12.2%}"
            )


def program_of(number: int, backend: str) -> tuple[Program, dict[str, Any]]:
    """A program for a model with this number of tensors, and its arguments."""
    torch.manual_seed(0)
    model = nn.Sequential(*(each for _ in range(number // 2) for each in (nn.Linear(32, 32), nn.Tanh())))
    data = {"inputs": (torch.randn(16, 32),), "targets": torch.randn(16, 32)}
    here = {"model": model, "loss_func": F.mse_loss, "params": [*model.parameters()], **data, "mixed": ""}
    program = Program(backend)
    with torch.no_grad():
        program.run_first(here)
    return program, here


def plain_step(here: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    here["loss_func"](here["model"](*here["inputs"]), here["targets"]).backward()
    optimizer.step()
    optimizer.zero_grad()


def processor_seconds() -> float:
    used = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def shortest(call: Callable[[], Any], n_calls: int, n_tries: int = 30) -> float:
    """Seconds of a call: the mean of a few, the shortest of many tries."""
    found = []
    for _ in range(n_tries):
        begun = time.perf_counter()
        for _ in range(n_calls):
            call()
        found.append((time.perf_counter() - begun) / n_calls)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=7)
    parser.add_argument("--works", nargs="*", type=int, help="numbers of the works, from 1; default: all")
    parser.add_argument(
        "--tensors", nargs="*", type=int, help="compile models with these numbers of tensors instead"
    )
    parser.add_argument("--backend", default="inductor", help="the compiler of these models")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Inductor's own
    if asked.tensors:
        by_tensors(asked.tensors, asked.backend)
        return
    print(f"torch {torch.__version__}, 1 thread, {asked.rounds} rounds")
    works = [
        partial(article, asked.rounds, partial(torch.optim.SGD, lr=RATE), "SGD"),
        partial(digits, asked.rounds, partial(torch.optim.SGD, lr=0.01), "SGD"),
        partial(article, asked.rounds, partial(torch.optim.Adam, lr=RATE), "Adam"),
        partial(digits, asked.rounds, partial(torch.optim.SGD, lr=0.01, momentum=0.9), "SGD with momentum"),
        partial(digits, asked.rounds, partial(torch.optim.Adam, lr=1e-3), "Adam"),
        partial(digits, asked.rounds, partial(torch.optim.Adam, lr=1e-3), "Adam, 4 batches an update", 4),
        partial(sequences, asked.rounds),
        partial(convolutions, asked.rounds),
    ]
    for place, work in enumerate(works, 1):
        if place in (asked.works or range(1, len(works) + 1)):
            work()


if __name__ == "__main__":
    main()
