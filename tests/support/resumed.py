"""A fit that uses all state that a resume must restore, callbacks that interrupt it, and its outcome."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from callbacks import (
    RMSE,
    Callback,
    CancelStep,
    Checkpoint,
    EarlyStopping,
    Metrics,
    Order,
    Recorder,
    TorchScheduler,
    ZeroGrad,
)
from learner import Data, Learner

N_ITEMS, BATCH_SIZE, N_BATCHES = 26, 4, 7


class Noisy(Dataset):
    """Points on a plane with noise from all three generators; records the indices that are fetched."""

    def __init__(self):
        self.inputs = torch.rand(N_ITEMS, 3, generator=torch.Generator().manual_seed(0))
        self.asked: list[int] = []

    def __len__(self) -> int:
        return N_ITEMS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.asked.append(index)
        noise = torch.rand(3) + random.random() + float(numpy.random.rand())
        return self.inputs[index] + 0.1 * noise, self.inputs[index].sum(0, keepdim=True)


def shuffled(**options: Any) -> Data:
    """A shuffled `DataLoader` of noisy data, and an ordered one for validation."""
    return Data(
        DataLoader(Noisy(), batch_size=BATCH_SIZE, shuffle=True, **options), DataLoader(Noisy(), batch_size=8)
    )


def in_memory() -> Data:
    """The points without noise, batched by indexing."""
    inputs = Noisy().inputs
    return Data.from_tensors(inputs, inputs.sum(1, keepdim=True), BATCH_SIZE, valid=0.25, seed=1)


class Crash(Callback):
    """Raise an error after `at` batches of training and validation, after all other callbacks."""

    order = Order.SAVE

    def __init__(self, at: int):
        super().__init__()
        self.at, self.n = at, 0

    def after_batch(self, learn: Any) -> None:
        self.n += 1
        if self.n == self.at:
            raise ZeroDivisionError("crash")


class Interrupt(Callback):
    """Interrupt the fit in a batch, as Ctrl-C does, so that a checkpoint is written there."""

    order = Order.PREPARE

    def __init__(self, at: int):
        super().__init__()
        self.at, self.n = at, 0

    def after_pred(self, learn: Any) -> None:
        self.n += 1
        if self.n == self.at:
            learn.interrupted = "interrupted by a test"


class Cycle(OneCycleLR):
    """One cycle with another length than the fit; torch's own class would raise a warning."""


class Accumulate(Callback):
    """Add the gradients of each two batches."""

    order = Order.GRADIENT

    def before_step(self, learn: Any) -> None:
        if learn.batch_idx % 2 == 0:
            raise CancelStep


class Seen(Callback):
    """Record the sum of each training batch."""

    state = ("seen",)

    def __init__(self):
        super().__init__()
        self.seen: list[float] = []

    def before_fit(self, learn: Any) -> None:
        self.seen = []

    def after_batch(self, learn: Any) -> None:
        if learn.training:
            self.seen.append(float(learn.inputs[0].double().sum()))


def make(
    folder: Path | None = None,
    *,
    data: Callable[[], Data] = shuffled,
    every: str = "1 step",
    callbacks: tuple[Callback, ...] = (),
    seed: int = 0,
    **options: Any,
) -> Learner:
    """A seeded learner with dropout, batch norm, momentum and a one-cycle schedule."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.ReLU(), nn.Linear(8, 1))
    saving = [] if folder is None else [Checkpoint(folder, every, **options)]
    return Learner(
        model,
        data(),
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        [
            TorchScheduler(partial(Cycle, max_lr=0.1, total_steps=100), every="1 step"),
            EarlyStopping("valid_loss", patience=2, restore_best=True),
            Seen(),
            *callbacks,
            *saving,
        ],
        metrics=[RMSE],
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def outcome(learn: Learner) -> dict[str, Any]:
    """Everything that must be equal in two runs."""
    return {
        "weights": {**learn.model.state_dict()},
        "optimizer": learn.optimizer.state_dict(),
        "rows": [{name: row[name] for name in row if name != "seconds"} for row in learn.history],
        "steps": {name: list(values) for name, values in learn.history.steps.items()},
        "stops": learn.history.stops,
        "seen": learn.callbacks[Seen].seen,
        "early stopping": [learn.callbacks[EarlyStopping].best, learn.callbacks[EarlyStopping].wait],
        "clock": [learn.global_step, learn.n_samples, learn.epoch],
        "stopped": learn.stop_reason,
        "next draws": [torch.rand(1).item(), random.random(), float(numpy.random.rand())],
    }


def differs(one: Any, other: Any, path: str = "") -> list[str]:
    """The paths at which two outcomes differ in any bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {list(one)} and {list(other)}"]
        return [found for key in one for found in differs(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [
            found
            for n, (first, second) in enumerate(pairs)
            for found in differs(first, second, f"{path}[{n}]")
        ]
    return [] if one == other else [f"{path}: {one} and {other}"]
