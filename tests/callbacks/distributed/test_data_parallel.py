"""Several processes end with the weights of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.ranked import columns, network, weights_of
from torch import Tensor, nn

from callbacks.distributed import in_order
from callbacks.distributed.distributed import Distributed
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.ema import EMA
from learner import Data, Learner


def learner_of(data: Any, *callbacks: Any, loss: Any = nn.functional.cross_entropy) -> Learner:
    return Learner(network(), data, loss, partial(torch.optim.SGD, lr=0.1, momentum=0.9), callbacks)


def in_one_rank(*callbacks: Any, batch_size: int = 8, **settings: Any) -> tuple[dict[str, Tensor], Any]:
    """The weights and the history of a rank."""
    inputs, targets = columns()
    learn = learner_of(
        Data.from_tensors(inputs, targets, batch_size, valid=None, seed=3),
        Distributed(**settings),
        *callbacks,
    )
    learn.fit(2)
    return weights_of(learn.model), [dict(row) for row in learn.history]


def accumulated(n_ranks: int, batch_size: int = 8) -> dict[str, Tensor]:
    """The weights of one process that accumulates the parts of each batch."""
    inputs, targets = columns()
    whole = Data.from_tensors(inputs, targets, batch_size, valid=None, seed=3).train

    def parts() -> Any:
        for (
            batch
        ) in whole:  # copied, since on some processors the bits of a product depend on the memory address
            yield from zip(*[map(Tensor.clone, each.tensor_split(n_ranks)) for each in batch], strict=True)

    class Window(GradientAccumulation):
        """Ends with a whole batch."""

    learn = learner_of(Data(parts), Window(n_ranks))
    learn.fit(2)
    return weights_of(learn.model)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_end_with_the_bits_of_one_process_that_accumulates(size: int) -> None:
    expected = accumulated(size)
    for weights, _ in in_ranks(size, in_one_rank):
        for name, each in weights.items():
            assert torch.equal(each, expected[name]), name


def in_small_buckets() -> dict[str, Tensor]:
    in_order.JOINED_BYTES = 64  # in this process: several sums are under way at once
    inputs, targets = columns()
    data = Data.from_tensors(inputs, targets, 8, valid=None, seed=3)
    learn = learner_of(data, Distributed(bucket_cap_mb=1e-4))
    learn.fit(2)
    return weights_of(learn.model)


def test_sums_of_several_buckets_at_once_have_the_same_bits() -> None:
    expected = accumulated(3)
    for weights in in_ranks(3, in_small_buckets):
        for name, each in weights.items():
            assert torch.equal(each, expected[name]), name


@pytest.mark.parametrize("size", [2, 3])
def test_the_history_is_that_of_one_process_on_every_rank(size: int) -> None:
    found = in_ranks(size, in_one_rank)
    inputs, targets = columns()
    learn = learner_of(Data.from_tensors(inputs, targets, 8, valid=None, seed=3))
    learn.fit(2)
    for weights, rows in found:
        for row, expected in zip(rows, learn.history, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)
        for name, each in weights_of(learn.model).items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=1e-6)
    assert len({str([row["train_loss"] for row in rows]) for _, rows in found}) == 1


def averaged_buffers() -> list[Tensor]:
    """The buffers of a rank, whose averages are of other items than those of other ranks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    data = Data.from_tensors(*columns(48), 8, valid=columns(), seed=3)
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(
        model, data, nn.functional.cross_entropy, sgd, [Distributed(), EMA(0.9, buffers="average")]
    )
    learn.fit(2)
    return [*model.buffers()]


def test_averages_of_buffers_are_equal_on_all_ranks() -> None:
    first, *others = in_ranks(3, averaged_buffers)
    for other in others:
        assert all(torch.equal(one, each) for one, each in zip(first, other, strict=True))
