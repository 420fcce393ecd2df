"""A snapshot does not change the order and the seed of other data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import Data, Learner

INPUTS = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1, keepdim=True)


def folds() -> Iterator[Data]:
    for k in range(3):
        valid = torch.arange(36) % 3 == k
        left = (INPUTS[~valid], TARGETS[~valid])
        yield Data.from_tensors(*left, 8, valid=(INPUTS[valid], TARGETS[valid]), seed=k)


def make(data: Data) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 1), data, F.mse_loss, partial(torch.optim.SGD, lr=0.05))


def score(learn: Learner) -> float:
    return learn.fit(2)[-1]["valid_loss"]


@pytest.mark.parametrize("is_data_first", [True, False])
def test_folds_give_the_numbers_of_new_learners_in_both_orders(is_data_first: bool) -> None:
    learn = make(next(folds()))
    start, scores = learn.snapshot(), []
    for data in folds():
        if is_data_first:
            learn.data = data
        learn.restore(start)
        learn.data = data
        scores.append(score(learn))
    assert scores == [score(make(data)) for data in folds()]


def orders(learn: Learner) -> list[Any]:
    return [batch[0].tolist() for batch in learn.data.train]


def test_a_snapshot_of_the_same_data_restores_its_order() -> None:
    learn = make(next(folds()))
    learn.fit(1)
    start = learn.snapshot()
    first = orders(learn)
    assert orders(learn) != first
    learn.restore(start)
    assert orders(learn) == first


def test_a_snapshot_restores_the_order_of_equal_data_made_again() -> None:
    learn = make(next(folds()))
    learn.fit(1)
    start, first = learn.snapshot(), orders(learn)
    learn.data = next(folds())
    learn.restore(start)
    assert orders(learn) == first


def test_a_snapshot_keeps_another_seed_of_the_same_data() -> None:
    learn = make(Data.from_tensors(INPUTS, TARGETS, 8, seed=0))
    start = learn.snapshot()
    learn.data = Data.from_tensors(INPUTS, TARGETS, 8, seed=1)
    learn.restore(start)
    assert orders(learn) == [each[0].tolist() for each in Data.from_tensors(INPUTS, TARGETS, 8, seed=1).train]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_file_restores_the_order_of_its_own_data_only(seed: int, tmp_path: Path) -> None:
    learn = make(Data.from_tensors(INPUTS, TARGETS, 8, seed=0))
    learn.fit(1)
    path, then = learn.save(tmp_path / "file.pt"), orders(learn)
    other = make(Data.from_tensors(INPUTS, TARGETS, 8, seed=seed))
    fresh = orders(make(Data.from_tensors(INPUTS, TARGETS, 8, seed=seed)))
    other.load(path)
    assert orders(other) == (fresh if seed else then)
