"""Compositions of several callbacks in several processes end as in one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks.composed import Partly, make
from ranks.in_ranks import in_ranks
from ranks.ranked import network, weights_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    EMA,
    SAM,
    SWA,
    Callback,
    CancelStep,
    ClosureStep,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    LeanStep,
    MixedPrecision,
    ReduceLROnPlateau,
    ValidateEvery,
)
from learner import Data, Learner
from learner.loop import forward

ADDED_UP = {"loss": nn.CrossEntropyLoss(reduction="sum"), "optimizer": partial(torch.optim.SGD, lr=0.01)}


class Tied(nn.Module):
    """The last layer has the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 3, bias=False), nn.Linear(3, 5, bias=False)
        self.last.weight = nn.Parameter(self.first.weight.T.contiguous())
        self.again = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.last(self.first(x)))


class Margin(nn.Module):
    """A loss with a trained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(preds * self.scale, targets) + 0.1 * self.scale.square()


class Doubled(Learner):
    """Overrides two operations."""

    def forward(self) -> None:
        forward(self)
        self.preds = 2 * self.preds

    def step(self) -> None:
        self.optimizer.step()


class Freeze(Callback):
    """Trains the last layer only in the second epoch."""

    def before_epoch(self, learn: Any) -> None:
        learn.model[0].requires_grad_(learn.epoch != 1)


class Replace(Callback):
    """Replaces the last layer in the second epoch."""

    def before_epoch(self, learn: Any) -> None:
        if learn.epoch == 1:
            torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)  # the first rank's are used
            learn.model[2] = nn.Linear(16, 3)
            learn.optimizer.param_groups[0]["params"] = [*learn.model.parameters()]


class Skip(Callback):
    """Updates the weights once for two batches."""

    def before_step(self, learn: Any) -> None:
        if not learn.batch_idx % 2:
            raise CancelStep


def own_loss(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (preds.softmax(1) - F.one_hot(targets, 3)).square().sum(1).mean()


def fit(learn: Any) -> None:
    learn.fit(3)


def one_cycle(learn: Any) -> None:
    learn.fit_one_cycle(2, 0.1)


def fitted_after_checks(learn: Any) -> None:
    learn.check()
    kept = learn.snapshot()
    learn.fit(1)
    learn.restore(kept)
    with learn.sandbox():
        learn.fit(1)
    learn.fit(2)


def callbacks_of(case: str) -> list[Any]:
    """New callbacks for a case, by its name."""
    return {
        "clip": lambda: [GradientClip(0.05)],
        "accumulated": lambda: [GradientAccumulation(2), GradientClip(0.05)],
        "by samples": lambda: [GradientAccumulation(n_samples=13)],
        "accumulated stream": lambda: [GradientAccumulation(3)],
        "accumulated sum": lambda: [GradientAccumulation(2)],
        "averages": lambda: [EMA(0.9)],
        "swa": lambda: [SWA(start=1)],
        "plateau": lambda: [
            ReduceLROnPlateau("valid_loss", patience=0),
            EarlyStopping("valid_loss", patience=1),
        ],
        "sam": lambda: [SAM(), GradientClip(0.5)],
        "lbfgs": lambda: [ClosureStep()],
        "lean": lambda: [LeanStep()],
        "unused accumulated": lambda: [GradientAccumulation(2)],
        "frozen": lambda: [Freeze()],
        "replaced": lambda: [Replace()],
        "replaced unused": lambda: [Replace()],
        "skipped": lambda: [Skip(), GradientClip(0.05)],
        "validated": lambda: [ValidateEvery("2 steps")],
        "fp16": lambda: [MixedPrecision("fp16")],
    }.get(case, list)()


#: How each case differs from the plain one.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {},
    "accumulated": {},
    "by samples": {},
    "accumulated stream": {"stream": True},
    "accumulated sum": ADDED_UP,
    "averages": {},
    "swa": {},
    "plateau": {},
    "sam": {},
    "lbfgs": {"optimizer": partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"), "size": 20},
    "lean": {},
    "frozen": {},
    "replaced": {},
    "replaced unused": {},
    "skipped": {"size": 7},
    "validated": {},
    "sum": ADDED_UP,
    "sum of few": {**ADDED_UP, "size": 1, "n": 5},
    "tokens": {"ignored": 7},
    "own loss": {"loss": own_loss},
    "trained loss": {"loss": Margin},
    "one item": {"size": 1, "n": 5},
    "tied": {"model": Tied},
    "unused": {"model": Partly},
    "unused accumulated": {"model": Partly},
    "static": {},
    "subclass": {"kind": Doubled},
    "stream": {"stream": True},
    "adamw": {"optimizer": partial(torch.optim.AdamW, lr=0.01)},
    "double": {"model": lambda: network().double()},
}
#: Arguments of `Distributed`.
OF_DISTRIBUTED = {
    "unused": {"find_unused_parameters": True},
    "unused accumulated": {"find_unused_parameters": True},
    "replaced unused": {"find_unused_parameters": True},
    "static": {"static_graph": True},
}
#: What is done with the learner, if it is not `fit`.
ACTIONS = {"plain": fitted_after_checks, "clip": one_cycle}


def run(case: str, distributed: Any = None) -> Any:
    settings = dict(SETTINGS[case])
    if distributed is not None:
        distributed = {**distributed, **OF_DISTRIBUTED.get(case, {})}
    if settings.get("loss") is Margin:
        settings["loss"] = Margin()
    learn = make(*callbacks_of(case), distributed=distributed, **settings)
    if case == "double":
        passes = (learn.data.train, learn.data.valid)
        learn.data = Data(*[[(x.double(), y) for x, y in each] for each in passes])
    ACTIONS.get(case, fit)(learn)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in learn.history]
    steps, clock = list(learn.history.steps["train_loss"]), (learn.global_step, learn.n_samples)
    weights = weights_of(learn.model)
    if isinstance(learn.loss_func, nn.Module):
        weights |= weights_of(learn.loss_func)
    return weights, rows, steps, clock, learn.history.validations


def guarded(case: str) -> Any:
    try:
        return run(case, {})
    except Exception as error:  # noqa: BLE001 - shown by the test
        return f"{type(error).__name__}: {error}"


def run_all(cases: list[str]) -> dict[str, Any]:
    return {case: guarded(case) for case in cases}


@pytest.fixture(scope="module")
def in_two() -> list[dict[str, Any]]:
    return in_ranks(2, run_all, list(SETTINGS))


@pytest.mark.parametrize("case", list(SETTINGS))
def test_two_processes_end_as_one(case, in_two) -> None:
    first, second = (each[case] for each in in_two)
    assert not isinstance(first, str), first
    assert all(torch.equal(each, second[0][name]) for name, each in first[0].items())
    assert str(first[1:]) == str(second[1:])
    expected = run(case)
    assert first[3] == expected[3]
    for name, each in first[0].items():
        torch.testing.assert_close(each, expected[0][name], rtol=0, atol=2e-6 if case != "lbfgs" else 2e-5)
    assert first[2] == pytest.approx(expected[2], rel=1e-5, nan_ok=True)
    assert first[4] == [pytest.approx(row, rel=1e-5) for row in expected[4]]
    for row, other in zip(first[1], expected[1], strict=True):
        assert row == pytest.approx(other, rel=1e-5, nan_ok=True)
