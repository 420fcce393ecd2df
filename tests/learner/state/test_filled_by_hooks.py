"""Features that hooks put into a list or dict, which a loss that is a module reads, as in distillation."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import pytest
import torch
from resumed import Interrupt
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Checkpoint
from learner import Data, Learner


class Hints(nn.Module):
    """The loss, and the distance of the model's features from those of a teacher."""

    def __init__(self, features: Any, teacher: nn.Module, read: Any) -> None:
        super().__init__()
        self.features, self.teacher, self.read = features, teacher, read

    def forward(self, preds: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        self.teacher(inputs)
        own, wanted = self.read(self.features)
        return F.mse_loss(preds, targets) + F.mse_loss(own, wanted)


def in_dict(features: dict[str, Tensor], name: str, output: Tensor) -> None:
    features[name] = output


def in_list(features: Any, name: str, output: Tensor) -> None:
    if name == "model":
        features.clear()
    features.append(output)


KINDS: dict[str, Any] = {
    "dict": (dict, in_dict, lambda found: (found["model"], found["teacher"])),
    "list": (list, in_list, lambda found: (found[0], found[1])),
    "deque": (lambda: deque(maxlen=2), in_list, lambda found: (found[0], found[1])),
}


def parts(kind: str) -> tuple[nn.Module, Hints, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    create, put, read = KINDS[kind]
    features = create()
    model, teacher = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(2))
    teacher.requires_grad_(False)
    for name, each in {"model": model, "teacher": teacher}.items():
        each[1].register_forward_hook(lambda _module, _inputs, output, name=name: put(features, name, output))
    return model, Hints(features, teacher, read), [(torch.randn(6, 3), torch.randn(6, 1)) for _ in range(4)]


def by_hand(kind: str, n_epochs: int) -> nn.Module:
    model, loss_func, batches = parts(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(n_epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss_func(model(inputs), inputs, targets).backward()
            optimizer.step()
    return model


def make(kind: str, *callbacks: Any) -> Learner:
    model, loss_func, batches = parts(kind)
    data = Data(batches, split=lambda batch: (batch[0], tuple(batch)))
    return Learner(model, data, loss_func, partial(torch.optim.SGD, lr=0.1), callbacks)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_reads_the_features_that_the_hooks_write(kind: str, tmp_path: Any) -> None:
    make(kind, Checkpoint(tmp_path), Interrupt(6)).fit(3)
    resumed = make(kind, Checkpoint(tmp_path))
    resumed.fit(3, resume="must")
    assert same(resumed.model, by_hand(kind, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_after_a_sandbox_reads_the_features_that_the_hooks_write(kind: str) -> None:
    learn = make(kind)
    learn.fit(1)
    with learn.sandbox():
        learn.fit(1)
    learn.fit(2)
    assert same(learn.model, by_hand(kind, 3))
