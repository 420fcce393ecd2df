"""Compositions of several callbacks in several processes end as in one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.ranked import columns, network, weights_of
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from callbacks import (
    EMA,
    SAM,
    SWA,
    Callback,
    ClosureStep,
    Distributed,
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

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
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


class Partly(nn.Module):
    """Uses one of its two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


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


def own_loss(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (preds.softmax(1) - F.one_hot(targets, 3)).square().sum(1).mean()


def make(
    *callbacks: Any,
    model: Any = network,
    loss: Any = F.cross_entropy,
    kind: Any = Learner,
    size: int = 6,
    n: int = 20,
    ignored: int = 0,
    optimizer: Any = MOMENTUM,
    stream: bool = False,
    distributed: Any = None,
) -> Any:
    inputs, targets = columns(n)
    targets[:ignored] = -100
    torch.manual_seed(0)
    data = Data.from_tensors(inputs, targets, size, valid=(inputs, targets), seed=3)
    if stream:
        data = Data(partial(zip, inputs.split(size), targets.split(size)), data.valid)
    given = [Distributed(**distributed)] if distributed is not None else []
    return kind(model(), data, loss, optimizer, [*given, *callbacks])


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


def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


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


def rates_and_losses(distributed: Any = None) -> list[float]:
    found = make(n=40, distributed=distributed).lr_find(n_steps=20, start=1e-3, end=1.0)
    return [*found.losses, found.minimum]


def wrapped_by_the_user(distributed: Any = None) -> list[float]:
    model = network() if distributed is None else DistributedDataParallel(network())
    learn = make(model=lambda: model, distributed=distributed)
    learn.fit(1)
    assert type(learn.model) is nn.Sequential
    return [each.sum().item() for each in learn.model.parameters()]


def batches_of_3_and_5(distributed: Any = None) -> list[float]:
    """Each rank takes a whole batch; one process takes both as one."""
    columns_of = [each.split(8 if distributed is None else [3, 5, 3, 5]) for each in columns(16)]
    given = [] if distributed is None else [Distributed(batch="each")]
    data = Data(list(zip(*columns_of, strict=True)))
    learn = Learner(network(), data, F.cross_entropy, MOMENTUM, given)
    learn.fit(2)
    facts = [*learn.history.steps["train_loss"], learn.global_step, learn.n_samples]
    return [*facts, *(each.sum().item() for each in learn.model.parameters())]


def validated_by_the_first(distributed: Any = None) -> list[float]:
    class Validate(Callback):
        def after_epoch(self, learn: Any) -> None:
            if learn.ranks.is_first:
                assert learn.validate() == pytest.approx({"valid_loss": learn.results["valid_loss"]})

    learn = make(Validate(), distributed=distributed)
    learn.fit(2)
    return learn.history["valid_loss"]


def from_a_distributed_sampler(distributed: Any = None) -> list[float]:
    """6 items of 12 for each rank, in batches of 4 and 2; one process takes those of both as one."""
    inputs, targets = columns(12)
    rows = [[0, 2, 4, 6, 1, 3, 5, 7], [8, 10, 9, 11]]
    loader: Any = [(inputs[each], targets[each]) for each in rows]
    if distributed is not None:
        dataset = TensorDataset(inputs, targets)
        loader = DataLoader(dataset, 4, sampler=DistributedSampler(dataset, shuffle=False))
    given = [Distributed()] if distributed is not None else []
    learn = Learner(network(), Data(loader), F.cross_entropy, MOMENTUM, given)
    learn.fit(2)
    facts = [*learn.history.steps["train_loss"], learn.global_step, learn.n_samples]
    return [*facts, *(each.sum().item() for each in learn.model.parameters())]


OTHERS = [
    from_a_distributed_sampler,
    rates_and_losses,
    wrapped_by_the_user,
    batches_of_3_and_5,
    validated_by_the_first,
]


def run_all(cases: list[str]) -> dict[str, Any]:
    found = {case: guarded(case) for case in cases}
    return {**found, **{each.__name__: each({}) for each in OTHERS}}


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


@pytest.mark.parametrize("act", OTHERS)
def test_other_uses_give_what_one_process_gives(act, in_two) -> None:
    first, second = (each[act.__name__] for each in in_two)
    assert str(first) == str(second)
    assert list(first) == pytest.approx(list(act()), rel=1e-5, abs=1e-6)


def counted(size: int, *callbacks: Any) -> int:
    """How many collective operations a fit calls, beside those of torch's engine."""
    names = ("all_reduce", "all_gather_object", "broadcast_object_list", "broadcast", "all_to_all_single")
    kept, calls = {name: getattr(torch.distributed, name) for name in names}, []

    def counting(name: str) -> Any:
        return lambda *given, **settings: (calls.append(name), kept[name](*given, **settings))[1]

    learn = make(*callbacks, size=size, n=24, distributed={})
    for name in names:
        setattr(torch.distributed, name, counting(name))
    try:
        learn.fit(1)
    finally:
        for name, function in kept.items():
            setattr(torch.distributed, name, function)
    return len(calls)


def counts_and_errors() -> tuple[list[tuple[int, int]], str, list[float]]:
    callbacks = ((), (GradientAccumulation,))
    counts = [tuple(counted(size, *[each(2) for each in kinds]) for size in (12, 2)) for kinds in callbacks]
    with pytest.raises(RuntimeError) as caught:
        make(model=Partly, distributed={}).fit(1)
    learn = make(model=batch_norm, n=24, distributed={})
    learn.fit(1)
    return counts, str(caught.value), [each.sum().item() for each in learn.model.buffers()]


def test_a_step_has_no_collective_operation_of_ours_and_unused_parameters_are_named() -> None:
    (counts, words, buffers), (_, other, others) = in_ranks(2, counts_and_errors)
    assert all(few == many < 20 for few, many in counts)
    assert "does not depend on spare.weight, spare.bias" in words
    assert "find_unused_parameters=True" in words
    assert words == other
    assert buffers == others
