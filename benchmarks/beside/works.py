"""The works that are timed, the plain loop that they are compared with, and how a step is timed.

The data time the steps: they note the time of each request for a batch. The time per step is the time from
an early note to the last one, divided by the number of steps between them; the first tenth of the steps is
left out. So the time counts what a framework does per step, per epoch and at intervals, but not what it
does once before the first step and after the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler


class Quadratic(nn.Module):
    """The article's a * t**2 + b * t + c."""

    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.ones(3))

    def forward(self, t: Tensor) -> Tensor:
        a, b, c = self.params
        return a * t**2 + b * t + c


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 10),
    )


def layers(n_layers: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(n_layers)))


def article_items() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2021)
    t = torch.arange(20).float()
    return t, torch.rand(20) * 5 + 0.8 * (t - 7.5) ** 2 + 1


def pictures(n_items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n_items, 784, generator=generator), torch.randint(10, (n_items,), generator=generator)


class Items(Dataset[Any]):
    """Pairs of one input and one target; mappings for a framework that requires them."""

    def __init__(self, inputs: Tensor, targets: Tensor, *, keyed: bool = False):
        self.inputs, self.targets, self.keyed = inputs, targets, keyed

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        item = self.inputs[index], self.targets[index]
        return dict(zip(("inputs", "labels"), item, strict=True)) if self.keyed else item


class NotedSampler(BatchSampler):
    """Shuffled batches of indices, with a note for each.

    The order is the same in each epoch, so that a framework that reads the first batch in advance, or ends an
    epoch without requesting a batch after the last, still trains like the plain loop.
    """

    def __init__(self, items: Items, batch_size: int, notes: list[float]):
        self.generator = torch.Generator()
        super().__init__(RandomSampler(items, generator=self.generator), batch_size, drop_last=False)
        self.notes = notes

    def __iter__(self) -> Iterator[list[int]]:
        self.generator.manual_seed(0)
        for indices in super().__iter__():
            self.notes.append(time.perf_counter())
            yield indices


class NotedList:
    """The same batch `n_batches` times, with a note for each."""

    def __init__(self, batch: Any, n_batches: int, notes: list[float]):
        self.batch, self.n_batches, self.notes = batch, n_batches, notes

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.n_batches):
            self.notes.append(time.perf_counter())
            yield self.batch


@dataclass(frozen=True)
class Work:
    """A model, data, and how long to train.

    Attributes:
        batch_size: items per batch of a `DataLoader`; 0 for a list of batches that contain all items.
        n_batches: batches per epoch.
        n_callbacks: number of callbacks that do nothing and run after each training batch.
        notes: when each batch was requested, in seconds; new for each run.
    """

    make_model: Callable[[], nn.Module]
    items: tuple[Tensor, Tensor]
    loss_func: Callable[..., Tensor]
    rate: float
    n_epochs: int
    n_batches: int
    batch_size: int = 0
    n_callbacks: int = 0
    notes: list[float] = field(default_factory=list)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.rate)

    def data(self, *, keyed: bool = False) -> Any:
        """The batches as `(inputs, targets)`, or as a mapping of `inputs` and `labels`."""
        items = Items(*self.items, keyed=keyed)
        if self.batch_size:
            return DataLoader(items, batch_sampler=NotedSampler(items, self.batch_size, self.notes))
        batch = {"inputs": items.inputs, "labels": items.targets} if keyed else self.items
        return NotedList(batch, self.n_batches, self.notes)

    def final_loss(self, model: nn.Module) -> float:
        """The loss on the first items, up to a thousand."""
        inputs, targets = (each[:1000] for each in self.items)
        with torch.no_grad():
            return self.loss_func(model.eval()(inputs), targets).item()


QUADRATIC = (Quadratic, article_items(), F.mse_loss, 1e-5)


def table(scale: float = 1.0) -> dict[str, Work]:
    """The works of the table; `scale` is the share of the usual number of steps."""
    some = partial(steps, scale=scale)
    n_mlp, n_conv = some(60), some(10)
    images = partial(Work, loss_func=F.cross_entropy, rate=0.01, n_epochs=2)
    return {
        "the article's fit, one batch per epoch": Work(*QUADRATIC, n_epochs=some(200), n_batches=1),
        "the same steps in one epoch": Work(*QUADRATIC, n_epochs=1, n_batches=some(500)),
        "MLP 784-128-10, batch 64, `DataLoader`": images(
            mlp, pictures(64 * n_mlp), n_batches=n_mlp, batch_size=64
        ),
        "small conv net, batch 128, `DataLoader`": images(
            conv_net, pictures(128 * n_conv), n_batches=n_conv, batch_size=128
        ),
        "the article's fit in one epoch, 100 callbacks": Work(
            *QUADRATIC, n_epochs=1, n_batches=some(500), n_callbacks=100
        ),
    }


def growth(scale: float = 1.0) -> dict[str, Work]:
    """Works in which one quantity grows."""
    some = partial(steps, scale=scale)
    article = Work(*QUADRATIC, n_epochs=1, n_batches=some(500))
    batch = (torch.ones(20, 8), torch.ones(20, 8))
    return {
        **{f"{n} callbacks": replace(article, n_callbacks=n) for n in (0, 10, 100)},
        **{f"{some(n)} steps": replace(article, n_batches=some(n)) for n in (300, 3000, 30000)},
        **{
            f"{some(n)} epochs of 5 steps": replace(article, n_epochs=some(n), n_batches=5)
            for n in (20, 200, 2000)
        },
        **{
            f"{2 * n} parameter tensors": Work(
                partial(layers, n), batch, F.mse_loss, 0.01, n_epochs=1, n_batches=some(100)
            )
            for n in (1, 10, 100)
        },
        **{
            f"{64 * some(n)} items": Work(
                mlp, pictures(64 * some(n)), F.cross_entropy, 0.01, 1, n_batches=some(n), batch_size=64
            )
            for n in (20, 200, 2000)
        },
    }


TABLES = {"table": table, "growth": growth}


def steps(usual: int, scale: float) -> int:
    return max(4, round(usual * scale))


def plain(work: Work) -> nn.Module:
    """Forward, loss, backward, step, zero_grad; nothing is recorded and no callback runs."""
    model = work.make_model()
    optimizer, data, loss_func = work.optimizer(model.parameters()), work.data(), work.loss_func
    for _ in range(work.n_epochs):
        for inputs, targets in data:
            loss = loss_func(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def step_seconds(notes: list[float]) -> float:
    """Mean time per step, without the first tenth of the steps."""
    first = len(notes) // 10
    return (notes[-1] - notes[first]) / (len(notes) - 1 - first)
