"""Data that is sharded already, so that each rank has a part of its own, is recognised and kept."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from ranks.shared_passes import Plain
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset

from callbacks import LearnerWarning
from learner import TensorLoader
from learner.data.sharing import sharding_of


def loader(n_items=12, rank=1, size=2, **options):
    sampler = DistributedSampler(range(n_items), num_replicas=size, rank=rank, **options)
    return DataLoader(Plain(n_items), 3, sampler=sampler)


def problems(of, rank=1, size=2, *, each=False, sharded=False):
    ranks = SimpleNamespace(rank=rank, size=size, each=each, sharded=sharded)
    return list(sharding_of(of).problems(of, ranks))


class ByRank(IterableDataset):
    """A stream that asks for its rank."""

    def __iter__(self):
        return iter(range(torch.distributed.get_rank(), 10, torch.distributed.get_world_size()))


class ByEnvironment(IterableDataset):
    """A stream that reads its rank from the environment."""

    def __iter__(self):
        return iter(range(int(os.environ["RANK"]), 10))


class Split(IterableDataset):
    """A stream as `split_dataset_by_node` of Hugging Face returns it."""

    def __init__(self):
        self._distributed = type("DistributedConfig", (), {})()
        self._distributed.rank, self._distributed.world_size = 1, 2

    def __iter__(self):
        return iter(range(10))


def split_by_node(source):
    return source


class Pipeline(IterableDataset):
    """A stream with a function of webdataset."""

    def __init__(self):
        self.pipeline = [split_by_node]

    def __iter__(self):
        return iter(range(10))


def test_a_distributed_sampler_is_recognised_also_within_a_batch_sampler():
    assert sharding_of(loader()).name == "DistributedSampler"
    inner = loader().sampler
    assert sharding_of(DataLoader(Plain(12), batch_sampler=BatchSampler(inner, 3, True))).part is inner
    assert problems(loader()) == []


@pytest.mark.parametrize("dataset", [Split, Pipeline])
def test_streams_that_were_sharded_are_recognised(dataset):
    found = DataLoader(dataset(), 2)
    assert sharding_of(found) is not None
    assert problems(found) == []


def by_rank():
    yield torch.arange(2) + torch.distributed.get_rank()


@pytest.mark.parametrize("found", [DataLoader(ByRank(), 2), DataLoader(ByEnvironment(), 2), by_rank()])
def test_code_that_asks_for_its_rank_counts_as_sharded_with_a_warning(found):
    (problem,) = problems(found)
    assert isinstance(problem, LearnerWarning)
    assert "To confirm this, pass Distributed(sharded=True)" in str(problem)
    assert problems(found, sharded=True) == []


@pytest.mark.parametrize(
    "of",
    [
        DataLoader(TensorDataset(torch.arange(4)), 2, shuffle=True),
        TensorLoader([torch.arange(4)], 2),
        [torch.arange(2)],
        lambda: [torch.arange(2)],
    ],
)
def test_other_data_is_not_sharded(of):
    assert sharding_of(of) is None


def test_a_sampler_for_another_rank_or_number_of_ranks_is_refused():
    (other_size,), (other_rank,) = problems(loader(), 1, 4), problems(loader(), 0)
    assert "for rank 1 of 2, but this is rank 1 of 4. Omit DistributedSampler" in str(other_size)
    assert "for rank 1 of 2, but this is rank 0 of 2" in str(other_rank)


def test_whole_batches_in_turn_of_sharded_data_are_refused():
    assert "so each rank already has its own batches" in str(problems(loader(), each=True)[0])


@pytest.mark.parametrize(("drop_last", "words"), [(False, "repeats 1 of 11"), (True, "leaves out 1 of 11")])
def test_items_that_are_repeated_or_left_out_are_reported(drop_last, words):
    found = loader(11, drop_last=drop_last)
    (problem,) = problems(found)
    assert isinstance(problem, LearnerWarning)
    assert words in str(problem)


class _DistributedEnv:
    """As litdata keeps it in a data set."""

    def __init__(self, size, rank):
        self.world_size, self.global_rank = size, rank


class _WorkerEnv:
    """As litdata keeps it in a data set that has been read: the numbers are those of worker processes."""

    def __init__(self):
        self.world_size, self.rank = 1, 0


class World:
    """As MosaicML Streaming keeps it in a data set."""

    def __init__(self, size, rank):
        self.num_ranks, self.rank = size, rank


class Streamed(IterableDataset):
    """A data set that finds its rank itself."""

    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return iter(range(10))


@pytest.mark.parametrize("world", [_DistributedEnv(2, 1), World(2, 1)])
def test_streams_that_find_their_rank_themselves_are_recognised(world):
    found = DataLoader(Streamed(_WorkerEnv(), world), 2)
    assert sharding_of(found).part is world
    assert problems(found) == []


def test_a_stream_that_has_not_found_its_rank_is_refused_with_the_reason():
    found = DataLoader(Streamed(_DistributedEnv(2, 0)), 2)
    assert "call torch.distributed.init_process_group() first" in str(problems(found)[0])


def test_the_numbers_of_worker_processes_are_not_taken_for_ranks():
    assert sharding_of(DataLoader(Streamed(_WorkerEnv()), 2)) is None
