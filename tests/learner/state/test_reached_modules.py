"""Modules that a loss function uses without being a module, and the loss of frozen models."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from upper.loss_modules import INPUTS, SGD, TARGETS, Crash, Running, Weighted, make, same, values

from callbacks import (
    Checkpoint,
    LearnerWarning,
    MixUp,
)
from learner import Data, Learner


def test_a_loss_within_mixup_is_in_the_file(tmp_path: Path) -> None:
    whole = make(Weighted, MixUp(seed=0))
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(Weighted, MixUp(seed=0), Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(Weighted, MixUp(seed=0), Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert same(values(resumed), values(whole))


CRITIC = nn.Linear(1, 1)


def by_closure() -> Any:
    loss = Weighted()
    return lambda preds, targets: loss(preds, targets)


def by_global() -> Any:
    return lambda preds, targets: F.mse_loss(CRITIC(preds), targets)


def by_attribute() -> Any:
    class Loss:
        def __init__(self) -> None:
            self.parts = {"running": Running()}

        def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
            return self.parts["running"](preds, targets)

    return Loss()


def by_argument() -> Any:
    def loss(preds: Tensor, targets: Tensor, critic: nn.Module) -> Tensor:
        return F.mse_loss(critic(preds), targets)

    return partial(loss, critic=nn.Linear(1, 1))


@pytest.mark.parametrize("loss", [by_closure, by_global, by_attribute, by_argument])
def test_a_module_reached_only_by_a_function_is_reported_once(loss: Any) -> None:
    learn = make(loss())
    with pytest.warns(LearnerWarning, match="the loss uses a") as caught:
        learn.fit(2)
    assert len([each for each in caught if "the loss uses" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)


class Own(Learner):
    state = ("critic",)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.critic = nn.Linear(1, 1)
        super().__init__(*args, **options)

    def compute_loss(self) -> None:
        self.loss_grad = F.mse_loss(self.critic(self.preds), self.targets)


def frozen() -> Any:
    teacher = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval().requires_grad_(False)
    return lambda preds, targets: F.mse_loss(teacher(preds), targets)


def constant() -> Any:
    loss = nn.CrossEntropyLoss(weight=torch.ones(1))
    return lambda preds, targets: loss(preds, targets * 0) + preds.square().mean()


def the_model() -> Any:
    model = nn.Linear(3, 1)
    return model, lambda preds, targets: F.mse_loss(preds, targets) + model.weight.square().sum()


def test_a_module_that_does_not_change_or_is_saved_is_not_reported(recwarn: Any) -> None:
    for loss in (frozen(), constant()):
        make(loss).fit(1)
    model, loss = the_model()
    Learner(model, Data.from_tensors(INPUTS, TARGETS, 8, seed=0), loss, SGD).fit(1)
    Own(nn.Linear(3, 1), Data.from_tensors(INPUTS, TARGETS, 8, seed=0), F.mse_loss, SGD).fit(1)
    assert not [each for each in recwarn if "the loss uses" in str(each.message)]


def test_with_a_splitter_the_loss_is_in_the_last_group_and_is_frozen_with_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    data = Data.from_tensors(INPUTS, TARGETS, 8, seed=0)
    learn = Learner(model, data, Weighted(), SGD, splitter=lambda model: [model[0], model[1]])
    assert [len(group["params"]) for group in learn.optimizer.param_groups] == [2, 3]
    learn.freeze()
    learn.fit(1)
    assert learn.loss_func.s.item() != 0


def test_a_head_in_the_loss_is_trained_on_a_frozen_model() -> None:
    learn = make(Weighted, optimizer=None)
    learn.model.requires_grad_(False)
    learn = Learner(learn.model, learn.data, learn.loss_func, SGD)
    learn.fit(1)
    assert learn.loss_func.s.item() != 0


def test_check_reports_no_problem_for_a_trained_loss() -> None:
    report = make(Weighted).check()
    assert not report.warnings
    assert not report.errors
    assert "3 of 3" in report.facts["optimizer"]
    assert "3 of 3" in report.facts["gradient"]
