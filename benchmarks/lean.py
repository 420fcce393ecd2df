"""The time per step with `LeanStep`, compared with a plain loop that ends with the same weights.

Run: python benchmarks/lean.py [rounds]

Every round runs every composition once, in turn, in one process, on one thread. A ratio compares with the
plain loop of the same round, so other work on the machine affects both; the table shows medians over
rounds. The plain loop does forward, loss, backward, step and zero_grad. After the last round, the final
weights of all compositions of a work are compared with the plain loop's, bit by bit. "Update alone"
compares calls of `optimizer.step()` with calls of `LeanStep.step`. The last table shows what is left of
the article's step: the operations without a loop.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from beside.works import Quadratic, mlp, pictures
from overhead import RATE, batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LeanStep, ZeroGrad
from learner import Data, Learner

Run = Callable[[], nn.Module]
N_STEPS = 1000
BATCH_SIZE = 64
N_ITEMS = 100 * BATCH_SIZE

SGD = partial(torch.optim.SGD, lr=0.01)
MOMENTUM = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-3)


def loader(seed: int = 0) -> Any:
    """A loader whose n-th epoch has the same batches in the same order as that of any other."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(*pictures(N_ITEMS)), BATCH_SIZE, shuffle=True, generator=generator)


def plain(model: nn.Module, data: Iterable[Any], loss_func: Any, make: Any) -> Run:
    optimizer = make(model.parameters())

    def run() -> nn.Module:
        for inputs, targets in data:
            loss = loss_func(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    return run


def learner(model: nn.Module, data: Any, loss_func: Any, make: Any, callback: Any) -> Run:
    learn = Learner(model, data, loss_func, make, [callback], defaults=())

    def run() -> nn.Module:
        learn.fit(1)
        return learn.model

    return run


def article(make: Any) -> dict[str, Run]:
    points = batches(N_STEPS)
    return {
        "plain loop": plain(Quadratic(), points, F.mse_loss, make),
        "plain loop again (the noise)": plain(Quadratic(), points, F.mse_loss, make),
        "ZeroGrad": learner(Quadratic(), Data(points), F.mse_loss, make, ZeroGrad()),
        "LeanStep": learner(Quadratic(), Data(points), F.mse_loss, make, LeanStep()),
    }


def digits(make: Any) -> dict[str, Run]:
    return {
        "plain loop": plain(mlp(), loader(), F.cross_entropy, make),
        "plain loop again (the noise)": plain(mlp(), loader(), F.cross_entropy, make),
        "ZeroGrad": learner(mlp(), Data(loader()), F.cross_entropy, make, ZeroGrad()),
        "LeanStep": learner(mlp(), Data(loader()), F.cross_entropy, make, LeanStep()),
        "ZeroGrad, Data.from_tensors (other order)": learner(
            mlp(), tensors(), F.cross_entropy, make, ZeroGrad()
        ),
        "LeanStep, Data.from_tensors (other order)": learner(
            mlp(), tensors(), F.cross_entropy, make, LeanStep()
        ),
    }


def tensors() -> Data:
    return Data.from_tensors(*pictures(N_ITEMS), batch_size=BATCH_SIZE, seed=0, valid=None)


def updates(make: Any) -> dict[str, Run]:
    """The MLP's update alone, always with the gradients of one batch."""

    def updating(lean: LeanStep | None) -> Run:
        learn: Any = Learner(mlp(), tensors(), F.cross_entropy, make, [lean or ZeroGrad()], defaults=())
        inputs, targets = next(iter(learn.data.train))
        F.cross_entropy(learn.model(inputs), targets).backward()

        def run() -> nn.Module:
            if lean is not None:
                lean.before_fit(learn)
            step = learn.optimizer.step if lean is None else partial(lean.step, learn)
            for _ in range(N_STEPS):
                step()
            return learn.model

        return run

    return {"plain loop": updating(None), "LeanStep": updating(LeanStep())}


def measure(works: dict[str, Run], rounds: int) -> tuple[dict[str, list[float]], dict[str, nn.Module]]:
    """Seconds of each work in each round except the first; the models at the end."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    models: dict[str, nn.Module] = {}
    for _ in range(rounds + 1):
        for name, run in works.items():
            start = time.perf_counter()
            models[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}, models


def report(title: str, works: dict[str, Run], rounds: int, n_steps: int) -> None:
    seconds, models = measure(works, rounds)
    plain_seconds, first = seconds["plain loop"], models["plain loop"]
    print(f"\n{title:<52}{'us/step':>9}{'ratio':>8}  weights")
    for name, values in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(values, plain_seconds, strict=True))
        same = all(map(torch.equal, models[name].parameters(), first.parameters()))
        weights = "same bits" if same else "other bits"
        print(f"{name:<52}{statistics.median(values) / n_steps * 1e6:>9.1f}{ratio:>8.3f}  {weights}")


def parts() -> dict[str, Run]:
    """The article's step with the lean calls, up to forward, up to backward, and complete."""
    points, lean = batches(N_STEPS), LeanStep()

    def until(last: int) -> Run:
        learn: Any = Learner(
            Quadratic(), Data(points), F.mse_loss, partial(SGD, lr=RATE), [lean], defaults=()
        )
        model = learn.model

        def run() -> nn.Module:
            lean.before_fit(learn)
            for inputs, targets in points:
                learn.loss_grad = F.mse_loss(model(inputs), targets)
                if last > 0:
                    lean.backward(learn)
                if last > 1:
                    lean.step(learn)
                if last > 0:
                    lean.zero_grad(learn) if last > 1 else setattr(model.params, "grad", None)
            return model

        return run

    return {"forward and loss": until(0), "and backward": until(1), "and step, zero_grad": until(2)}


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {rounds} rounds")
    quadratic = partial(torch.optim.SGD, lr=RATE)
    report("the article's fit, SGD", article(quadratic), rounds, N_STEPS)
    report("the article's fit, Adam", article(partial(torch.optim.Adam, lr=RATE)), rounds, N_STEPS)
    for name, make in {"SGD": SGD, "SGD with momentum": MOMENTUM, "Adam": ADAM}.items():
        report(f"MLP 784-128-10, batch 64, DataLoader, {name}", digits(make), rounds, N_ITEMS // BATCH_SIZE)
        report(f"its update alone, {name}", updates(make), rounds, N_STEPS)
    works = {"plain loop": plain(Quadratic(), batches(N_STEPS), F.mse_loss, quadratic), **parts()}
    report("what is left of the article's step", works, rounds, N_STEPS)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
