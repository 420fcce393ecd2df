"""Compare a port with its hand-written loop: the parts of a port, and how to train, kill and resume it."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from callbacks import Callback, Checkpoint, LearnerWarning, Order
from learner import Learner

HERE = Path(__file__).parent
GALLERY = HERE.parent.parent / "docs" / "gallery"

#: Every file of a subfolder is a port, found by its name as `pictures.mnist`.
NAMES = sorted(f"{path.parent.name}.{path.stem}" for path in HERE.glob("*/*.py"))


@dataclass
class Port:
    """A public training script: the loop as it is written by hand, and the same training with a learner.

    Attributes:
        by_hand: trains once, and returns every trained tensor by name.
        make_learner: takes further callbacks and returns the learner, seeded like the loop by hand.
        weights: returns every trained tensor of a learner by the names that `by_hand` uses.
        n_epochs: length of the fit.
        killed_at: the weight update after which the run is killed.
        refused: callbacks that the learner cannot use, each with a part of the message.
    """

    by_hand: Callable[[], dict[str, Tensor]]
    make_learner: Callable[..., Learner]
    weights: Callable[[Learner], dict[str, Tensor]]
    n_epochs: int
    killed_at: int
    refused: dict[str, str]


def load(name: str) -> Port:
    """The port of that name, as `pictures.mnist`."""
    module: ModuleType = importlib.import_module(f"ports.{name}")
    return Port(
        cache(module.by_hand),
        module.make_learner,
        getattr(module, "weights", lambda learn: learn.model.state_dict()),
        module.N_EPOCHS,
        module.CUT_AT,
        getattr(module, "REFUSED", {}),
    )


class CopyFolder(Callback):
    """Copy the run's folder after a given weight update: what a kill at that moment leaves on disk."""

    order = Order.SAVE

    def __init__(self, step: int, source: Path, copy: Path):
        super().__init__()
        self.step, self.source, self.copy = step, source, copy

    def after_step(self, learn: Any) -> None:
        if learn.global_step == self.step:
            shutil.copytree(self.source, self.copy)


def train(port: Port, *callbacks: Callback, **fit_options: Any) -> dict[str, Tensor]:
    """Train the learner in one fit and return its weights."""
    learn = port.make_learner(*callbacks)
    learn.fit(port.n_epochs, **fit_options)
    return port.weights(learn)


def train_killed_and_resumed(port: Port, folder: Path) -> dict[str, Tensor]:
    """Train with a checkpoint every two updates, take the disk as it is at a kill, and resume from that."""
    run, killed = folder / "run", folder / "killed"
    train(port, Checkpoint(run, every="2 steps"), CopyFolder(port.killed_at, run, killed))
    return train(port, Checkpoint(killed, every="2 steps"), resume="must")


def train_with_fallback(port: Port, fast: Any) -> dict[str, Tensor]:
    """Train with a fast step, which may warn that it falls back, or that shapes change all the time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained = train(port, fast)
    unexpected = [each for each in caught if not issubclass(each.category, LearnerWarning)]
    assert not unexpected, [str(each.message) for each in unexpected]
    messages = [str(each.message) for each in caught if "Pad batches" not in str(each.message)]
    assert bool(messages) == bool(fast.fallback), messages
    return trained
