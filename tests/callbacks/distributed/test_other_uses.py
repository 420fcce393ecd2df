"""Outside a fit, or with other data, a learner gives the same results in several processes as in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks.composed import MOMENTUM, Partly, make
from ranks.in_ranks import in_ranks
from ranks.ranked import columns, network
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from callbacks import Callback, Distributed, GradientAccumulation
from learner import Data, Learner


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


def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def counted(size: int, *callbacks: Any) -> int:
    """How many collective operations a fit calls, apart from those of torch's engine."""
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


def run_all() -> dict[str, Any]:
    return {**{each.__name__: each({}) for each in OTHERS}, "counts": counts_and_errors()}


@pytest.fixture(scope="module")
def in_two() -> list[dict[str, Any]]:
    return in_ranks(2, run_all)


@pytest.mark.parametrize("act", OTHERS)
def test_other_uses_give_what_one_process_gives(act, in_two) -> None:
    first, second = (each[act.__name__] for each in in_two)
    assert str(first) == str(second)
    assert list(first) == pytest.approx(list(act()), rel=1e-5, abs=1e-6)


def test_a_step_has_no_collective_operation_of_ours_and_unused_parameters_are_named(in_two) -> None:
    (counts, words, buffers), (_, other, others) = [each["counts"] for each in in_two]
    assert all(few == many < 20 for few, many in counts)
    assert "does not depend on spare.weight, spare.bias" in words
    assert "find_unused_parameters=True" in words
    assert words == other
    assert buffers == others
