"""Several processes make the same decisions as one, and all of them the same ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.ranked import columns, network, weights_of
from torch import nn

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    GradientAccumulation,
    Order,
    ShortEpoch,
    StopAfter,
)
from callbacks.distributed.distributed import Distributed
from learner import Data, Learner

CANCELS = {"stop": None, "fit": CancelFit, "epoch": CancelEpoch, "train": CancelTrain, "batch": CancelBatch}


class Act(Callback):
    """Stops or cancels in the second epoch, in some processes."""

    def __init__(self, event: str, kind: str, ranks: tuple[int, ...], order: Order = Order.MEASURE):
        super().__init__()
        self.event, self.kind, self.ranks, self.order = event, kind, ranks, order

    def _act(self, learn: Any, event: str) -> None:
        is_here = learn.training and learn.epoch == 1 and learn.batch_idx == 2
        if event != self.event or learn.ranks.rank not in self.ranks or not is_here:
            return
        if self.kind == "stop":
            learn.stop("enough")
        else:
            raise CANCELS[self.kind]

    def before_batch(self, learn: Any) -> None:
        self._act(learn, "before_batch")

    def after_loss(self, learn: Any) -> None:
        self._act(learn, "after_loss")

    def after_step(self, learn: Any) -> None:
        self._act(learn, "after_step")

    def after_batch(self, learn: Any) -> None:
        self._act(learn, "after_batch")


def learner_with(*callbacks: Any) -> Learner:
    inputs, targets = columns(24)
    data = Data.from_tensors(inputs, targets, 6, valid=(inputs, targets), seed=3)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Learner(network(), data, nn.functional.cross_entropy, sgd, callbacks)


def facts_of(learn: Learner) -> dict[str, Any]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in learn.history]
    return {
        "weights": weights_of(learn.model),
        "clock": (learn.epoch, learn.batch_idx, learn.global_step, learn.n_samples, learn.stop_reason),
        "rows": rows,
        "steps": list(learn.history.steps["train_loss"]),
        "seconds": [row["seconds"] for row in learn.history],
    }


def trained(callbacks: list[Any]) -> dict[str, Any]:
    learn = learner_with(*callbacks)
    learn.fit(3)
    return facts_of(learn)


def acted(cases: list[Any]) -> list[Any]:
    return [trained([Distributed(), *make()]) for make in cases]


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["clock"] == expected["clock"]
    for name, each in found["weights"].items():
        torch.testing.assert_close(each, expected["weights"][name], rtol=0, atol=1e-6)
    if len(found["steps"]) > len(expected["steps"]):
        return  # in one process, `after_batch` does not fire after a cancel in `after_step`
    assert found["steps"] == pytest.approx(expected["steps"], rel=1e-5)
    assert len(found["rows"]) == len(expected["rows"])
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-5)


ALL = [
    *[(event, kind) for event in ("before_batch", "after_loss") for kind in CANCELS],
    *[("after_step", kind) for kind in ("stop", "fit", "epoch", "train")],
    *[("after_batch", kind) for kind in ("stop",)],
]


def making(event: str, kind: str, ranks: tuple[int, ...]) -> Any:
    return partial(made, event, kind, ranks)


def made(event: str, kind: str, ranks: tuple[int, ...]) -> list[Any]:
    return [Act(event, kind, ranks)]


def budgets() -> list[Any]:
    return [
        partial(list, (ShortEpoch(2),)),
        partial(list, (StopAfter("5 steps"),)),
        partial(list, (StopAfter("13 samples"),)),
        partial(list, (StopAfter("5 steps"), GradientAccumulation(2))),
        partial(list, (ShortEpoch(3), GradientAccumulation(2))),
    ]


def test_what_all_processes_decide_ends_as_in_one() -> None:
    cases = [making(event, kind, (0, 1)) for event, kind in ALL] + budgets()
    first, second = in_ranks(2, acted, cases)
    for make, one, other in zip(cases, first, second, strict=True):
        assert {**one, "weights": 0} == {**other, "weights": 0}, make
        assert all(torch.equal(one["weights"][name], each) for name, each in other["weights"].items()), make
        try:
            compare(one, trained(make()))
        except AssertionError as error:
            raise AssertionError(f"{make.args}: {error}") from error


def test_what_one_process_decides_all_do() -> None:
    cases = [making(event, kind, (rank,)) for event, kind in ALL for rank in (0, 1)]
    for make, *found in zip(cases, *in_ranks(2, acted, cases), strict=True):
        one, other = found
        assert {**one, "weights": 0} == {**other, "weights": 0}, make
        assert all(torch.equal(one["weights"][name], each) for name, each in other["weights"].items()), make
        _, kind, _ = make.args
        if kind != "batch":
            compare(one, trained(made(*make.args[:2], (0,))))
        else:
            assert one["clock"][2] == 12


class SkipStep(Callback):
    def before_step(self, learn: Any) -> None:
        if learn.ranks.rank == 1 and learn.global_step == 2:
            raise CancelStep


def skipped() -> str:
    with pytest.raises(RuntimeError) as caught:
        learner_with(Distributed(), SkipStep()).fit(2)
    return str(caught.value)


def test_updates_that_one_process_skips_are_an_error_that_names_it() -> None:
    for message in in_ranks(2, skipped):
        assert "rank 0 does not have the same updates as rank 1 (3, 2)" in message


class Uneven(Callback):
    """Gives three processes 1, 2 and 3 more updates: the second one has the mean number."""

    def after_batch(self, learn: Any) -> None:
        if learn.training and learn.global_step == 2:
            learn.global_step += 1 + learn.ranks.rank


def counted_unevenly() -> str:
    with pytest.raises(RuntimeError) as caught:
        learner_with(Distributed(), Uneven()).fit(2)
    return str(caught.value)


def test_updates_that_differ_in_every_process_are_an_error_in_each() -> None:
    for message in in_ranks(3, counted_unevenly):
        assert "rank 0 does not have the same updates as rank 1 and 2 (3, 4, 5)" in message


class Late(Callback):
    """Sets the clock of the second process above the budget, in the middle of an epoch."""

    def after_loss(self, learn: Any) -> None:
        if learn.ranks.rank == 1 and learn.epoch == 1 and learn.batch_idx == 1:
            learn.callbacks[StopAfter].seconds = 7200.0


def out_of_time() -> dict[str, Any]:
    return trained([Distributed(), StopAfter("1 hour"), Late()])


def test_a_budget_of_time_that_one_process_has_used_up_ends_all() -> None:
    first, second = in_ranks(2, out_of_time)
    assert first["clock"] == second["clock"]
    assert first["clock"][-1] == "the budget of 1 hour is used up"
    compare(first, second)
