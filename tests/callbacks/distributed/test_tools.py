"""Methods that a user calls outside a fit, in several processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks.in_ranks import in_ranks
from ranks.ranked import columns, network
from torch import nn

from callbacks import Distributed, ValidateEvery
from learner import Data, Interpretation, Learner
from learner.tools import meter


def learner_of(*callbacks: Any) -> Learner:
    inputs, targets = columns(24)
    data = Data.from_tensors(inputs, targets, 6, valid=(inputs, targets), seed=3)
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Learner(network(), data, nn.functional.cross_entropy, sgd, callbacks)


def measured() -> tuple[int, float | None, str | None]:
    meter.SLOW = 0.0 if dist.get_rank() == 0 else 9.0  # only the first process finds its steps slow
    found = learner_of(Distributed()).cost(20)
    return found.n_steps, found.bare, found.why_not_bare


def test_all_processes_measure_the_same_number_of_steps() -> None:
    first, second = in_ranks(2, measured, limit=10)
    assert first == second
    assert first[1:] == (None, "the processes share each batch")


def refusal() -> str:
    with pytest.raises(RuntimeError) as caught:
        learner_of().find_batch_size()
    return str(caught.value)


def test_the_search_for_a_batch_size_is_refused_with_what_to_do() -> None:
    for message in in_ranks(2, refusal):
        assert "in one of 2 processes" in message
        assert "by 2" in message


def used(*given: Any) -> Any:
    """The numbers of what is called after a fit."""
    learn = learner_of(ValidateEvery("2 steps"), *given)
    learn.fit(2)
    found = Interpretation(learn)
    return [
        *(row["valid_loss"] for row in learn.history.validations),
        *learn.validate().values(),
        *learn.predict(torch.ones(2, 5)).flatten().tolist(),
        *found.top_losses(2).losses.tolist(),
        float(learn.check().facts["gradient"].split("norm ")[1]),
    ]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_is_called_after_a_fit_returns_the_same_in_each_process_as_in_one(kind: Any) -> None:
    first, second = in_ranks(2, used, Distributed(kind), limit=20)
    assert first == second
    assert first == pytest.approx(used(), rel=1e-5)
