"""Loaders of the user in several processes: the same items, draws and positions as in one."""

from __future__ import annotations

import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.shared_passes import Plain, noisy_loader
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, Sampler, TensorDataset, default_collate

from callbacks import Callback
from callbacks.distributed.distributed import Distributed
from callbacks.save.checkpoint import Checkpoint
from callbacks.schedule.budgets import n_train_batches
from learner import Data, Learner, TensorLoader, seed_everything


class Seen(Callback):
    """Keeps the items that count, by epoch, and the lengths of passes."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[list[Any]] = []
        self.n_batches: list[Any] = []

    def before_train(self, learn: Any) -> None:
        self.items.append([])
        self.n_batches.append((learn.n_batches, n_train_batches(learn)))

    def after_batch(self, learn: Any) -> None:
        n_here = len(learn.targets) if learn.ranks.n_here is None else learn.ranks.n_here
        if learn.training:
            self.items[-1] += learn.inputs[0][:n_here].tolist()


def float_loss(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (preds[:, 0] - targets.float()).pow(2).mean()


def learner_of(make: Any, *callbacks: Any) -> Learner:
    seed_everything(3)
    model = (
        nn.Linear(2, 1) if make in (plain_loader, sharded_loader, sharded_nodes) else nn.Linear(6, 1).double()
    )
    return Learner(model, Data(make(), make()), float_loss, partial(torch.optim.SGD, lr=1e-4), callbacks)


def plain_loader(**options: Any) -> Any:
    return DataLoader(Floats(23), 5, shuffle=True, **options)


class Floats(Plain):
    """Items of floats."""

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, 1.0]), index


def trained(make: Any, *more: Any, resume: Any = "never", folder: Any = None, **settings: Any) -> Any:
    """What one rank has seen, and its weights."""
    files = [] if folder is None else [Checkpoint(folder, every="1 step", keep=None)]
    seen = Seen()
    learn = learner_of(make, Distributed(**settings), seen, *files, *more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(2, resume=resume)
    words = [str(each.message) for each in caught]
    return seen.items, [each.detach() for each in learn.model.parameters()], seen.n_batches, words


def assert_same_weights(found: Any, expected: Any) -> None:
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def items_of(ranks: Any, epoch: int) -> list[Any]:
    """The items that counted in an epoch on any rank, sorted."""
    return sorted(item for rank in ranks for item in rank[0][epoch])


def test_ranks_train_on_the_same_items_with_the_same_draws() -> None:
    (expected,) = in_ranks(1, partial(trained, noisy_loader))
    ranks = in_ranks(3, partial(trained, noisy_loader))
    for epoch in (0, 1):
        assert items_of(ranks, epoch) == items_of([expected], epoch)
    for rank in ranks:
        assert_same_weights(rank, expected)


def test_a_run_over_workers_resumes_on_another_number_of_ranks(tmp_path: Path) -> None:
    make = partial(noisy_loader, num_workers=1, multiprocessing_context="fork")
    (expected, _) = in_ranks(2, partial(trained, make, folder=tmp_path / "whole"))
    (tmp_path / "part").mkdir()
    shutil.copy(tmp_path / "whole" / "step-000000007.pt", tmp_path / "part")
    for rank in in_ranks(3, partial(trained, make, folder=tmp_path / "part", resume="must")):
        assert_same_weights(rank, expected)


def test_whole_batches_in_turn_have_as_many_steps_as_a_schedule_needs() -> None:
    ranks = in_ranks(2, partial(trained, plain_loader, batch="each"))
    for items, _, lengths, words in ranks:
        assert lengths == [(3, 3)] * 2
        assert not any("claims to have" in each for each in words)
        assert len(items) == 2
    assert items_of(ranks, 0) == [[float(n), 1.0] for n in range(23)]


def sharded_loader() -> Any:
    dataset = Floats(23)
    return DataLoader(dataset, 3, sampler=DistributedSampler(dataset))


def test_the_loader_of_a_distributed_sampler_is_kept_and_its_repeated_item_reported() -> None:
    ranks = in_ranks(2, partial(trained, sharded_loader))
    found = items_of(ranks, 0)
    assert len(found) == 24
    assert {item[0] for item in found} == set(range(23))
    assert ranks[0][0][0] != ranks[0][0][1]  # its epoch is set
    assert any("repeats 1 of 23 items" in words for words in ranks[0][3])


def sharded_nodes() -> Any:
    """A loader of `torchdata.nodes` over a part of the items; its state is its position."""
    nodes, dataset = pytest.importorskip("torchdata.nodes"), Floats(23)
    items = nodes.SamplerWrapper(DistributedSampler(dataset, seed=5))
    batches = nodes.Batcher(nodes.Mapper(items, dataset.__getitem__), 3, drop_last=False)
    return nodes.Loader(nodes.Mapper(batches, default_collate))


def test_a_sharded_loader_with_a_state_resumes_at_the_position_of_each_rank(tmp_path: Path) -> None:
    whole = in_ranks(2, partial(trained, sharded_nodes, folder=tmp_path / "whole"))
    assert {item[0] for item in items_of(whole, 1)} == set(range(23))
    (tmp_path / "part").mkdir()
    shutil.copy(tmp_path / "whole" / "step-000000003.pt", tmp_path / "part")
    resumed = in_ranks(2, partial(trained, sharded_nodes, folder=tmp_path / "part", resume="must"))
    for rank, expected in zip(resumed, whole, strict=True):
        assert rank[0] == [expected[0][0][9:], expected[0][1]]
        assert_same_weights(rank, expected)


def unseeded() -> Any:
    """The items of a rank whose loader has drawn another order than those of other ranks."""
    torch.manual_seed(torch.distributed.get_rank())
    tensors = torch.arange(23.0).view(-1, 1), torch.arange(23.0)
    orders = TensorLoader(tensors, 5, shuffle=True)
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    loader = DataLoader(TensorDataset(*tensors), 5, shuffle=True, generator=generator)
    seen = Seen()
    for each in (orders, loader):
        learn = Learner(nn.Linear(1, 1), Data(each), float_loss, torch.optim.SGD, [Distributed(), seen])
        learn.fit(2)
    return seen.items


def test_loaders_that_have_drawn_other_seeds_take_the_order_of_the_first_rank() -> None:
    first, second = in_ranks(2, unseeded)
    for some, others in zip(first, second, strict=True):
        assert sorted(item for each in (some, others) for (item,) in each) == list(range(23))


def own_order() -> Any:
    order = np.random.default_rng(torch.distributed.get_rank()).permutation(20)
    yield from ((torch.tensor([[float(n), 1.0]] * 3), torch.tensor([n] * 3)) for n in order)


class OwnOrder(Sampler):
    """An order of each rank."""

    def __iter__(self) -> Any:
        return iter(np.random.default_rng(torch.distributed.get_rank()).permutation(20).tolist())


def refused() -> list[str]:
    """The errors with data whose order differs between ranks."""
    errors = []
    for train in (lambda: (each for each in own_order()), DataLoader(Floats(20), 5, sampler=OwnOrder())):
        learn = Learner(nn.Linear(2, 1), Data(train), float_loss, torch.optim.SGD, [Distributed()])
        try:
            learn.fit(1)
        except ValueError as error:
            errors.append(str(error))
    return errors


def test_data_with_another_order_on_each_rank_is_refused() -> None:
    for errors in in_ranks(2, refused):
        assert len(errors) == 2
        assert all("yields a different first batch on rank 1 than on rank 0" in each for each in errors)
