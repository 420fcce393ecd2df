"""The cost of a step is attributed to its source, and measuring it changes nothing."""

from __future__ import annotations

import io
import sys
import time
from functools import partial
from statistics import fmean
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, get_worker_info
from upper.naps import NAP, NAPS, Sleeper, Sleepy, make, nap

from callbacks import (
    Callback,
    When,
)
from learner import Data, Learner, TensorLoader
from learner.tools.data_remedies import remedy_for


def is_nap(seconds: float, n: float = 1) -> bool:
    """Is it the time of that many naps?"""
    return n * NAP <= seconds * 1.01 <= 2 * n * max(fmean(NAPS), 1.2 * NAP)


@pytest.fixture(autouse=True)
def no_naps():
    NAPS.clear()


def test_a_callback_may_open_a_sandbox_while_it_is_measured():
    class Tries(Callback):
        n_losses = 0

        def after_epoch(self, learn):
            with learn.sandbox():
                learn.update()
                Tries.n_losses += "valid_loss" in learn.validate()

    learn = make(Tries())
    assert learn.cost(20).callbacks["tries"].epoch > 0
    assert Tries.n_losses > 0


class Slow(nn.Linear):
    n_steps = 0

    def forward(self, inputs):
        if self.training:
            Slow.n_steps += 1
            time.sleep(0.06)
        return super().forward(inputs)


@pytest.mark.parametrize("n_batches", [4, 100])
def test_slow_steps_are_measured_in_fewer_of_them_and_a_bar_shows_those_of_the_plain_loop(
    n_batches, monkeypatch
):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("callbacks.record.bar.SOON", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    batches = [(torch.rand(4, 1), torch.rand(4, 1))] * n_batches
    sgd = partial(torch.optim.SGD, lr=0.1)
    Slow.n_steps = 0
    cost = Learner(Slow(1, 1), Data(batches), F.mse_loss, sgd).cost(20)
    assert cost.n_steps == 20
    assert cost.bare == pytest.approx(cost.step, rel=0.5)
    assert Slow.n_steps == 28  # 20, and 5 of the plain loop, with a warm-up of one step in each of three runs
    assert "learn.cost(): steps of a bare loop" in terminal.getvalue()
    assert "100% " in terminal.getvalue()


def test_a_callback_that_sleeps_is_found():
    cost = make(Sleeper()).cost(20)
    assert is_nap(cost.callbacks["sleeper"].step)
    assert is_nap(cost.callbacks["sleeper"].epoch, 3)
    assert cost.step > NAP
    assert cost.bare is not None
    assert cost.over_bare == pytest.approx((cost.step - cost.data_wait) / cost.bare)
    assert cost.remedy is None


def test_the_old_name_of_the_callbacks_still_works_and_warns():
    cost = make(Sleeper()).cost(20)
    with pytest.warns(DeprecationWarning, match=r"StepCost\.callbacks now"):
        assert cost.plugins is cost.callbacks  # vocabulary: quoted


def test_a_loader_that_sleeps_is_found_with_the_hint():
    cost = make(data_set=Sleepy).cost(20)
    assert is_nap(cost.data_wait)
    assert cost.data_wait / cost.step > 0.2
    assert "num_workers=0" in str(cost.remedy)
    assert "Data.from_tensors" in str(cost.remedy)


def test_reading_in_blocks_is_suggested_for_a_memory_map_that_is_read_item_by_item(tmp_path):
    numpy.save(tmp_path / "items.npy", numpy.ones((64, 4), "float32"))
    array = numpy.load(tmp_path / "items.npy", mmap_mode="r")
    assert "order='blocks'" in remedy_for(TensorLoader((array,), 8, shuffle=True), 0.5)
    for loader in (TensorLoader((array,), 8), TensorLoader((array,), 8, shuffle=True, order="blocks")):
        assert "larger batches" in remedy_for(loader, 0.5)


ITEMS: Any = [1.0, 2.0]


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class Shared(IterableDataset):
    def __iter__(self):
        return iter(range(4)) if get_worker_info() is None else iter(range(2))


class Held:
    """A loader that wraps another one."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def test_each_worker_needs_its_own_share_of_a_stream():
    hint = "its own share of an IterableDataset"
    for loader in (DataLoader(Numbers(), 2), Numbers(), Held(DataLoader(Numbers(), 2))):
        assert hint in remedy_for(loader, 0.5)
    shared = DataLoader(Numbers(), 2, worker_init_fn=print)
    for loader in (DataLoader(Shared(), 2), shared, DataLoader(ITEMS), [torch.rand(2, 1)]):
        assert hint not in remedy_for(loader, 0.5)


@pytest.mark.parametrize("make", [Held, lambda loader: lambda: iter(loader)], ids=["an object", "a function"])
def test_the_workers_of_a_loader_inside_another_one_are_counted(make):
    loader = DataLoader(ITEMS, num_workers=1)
    assert "more workers in the DataLoader (it has num_workers=1," in remedy_for(make(loader), 0.5)


def test_a_loader_of_a_library_is_named():
    class StreamingDataLoader(DataLoader):
        __module__ = "streaming.base.dataloader"

    class Own(StreamingDataLoader):
        __module__ = "__main__"

    for kind in (StreamingDataLoader, Own):
        remedy = remedy_for(kind(Numbers(), num_workers=0), 0.5)
        assert f"use more workers in the {kind.__name__} (it has num_workers=0," in remedy
        assert "from_tensors" not in remedy


def test_the_remedy_for_webdataset_is_its_own_loader():
    webdataset = pytest.importorskip("webdataset")
    dataset = webdataset.WebDataset("{0..3}.tar", shardshuffle=False).batched(2)
    assert "webdataset.WebLoader(dataset, batch_size=None, num_workers=2)" in remedy_for(dataset, 0.5)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=1)
    for each, name in (
        (loader.unbatched().batched(2), "WebLoader"),
        (DataLoader(dataset, None), "DataLoader"),
    ):
        remedy = remedy_for(each, 0.5)
        assert f"use more workers in the {name} (it has num_workers=" in remedy
        assert "at most as many as there are shards" in remedy


def test_the_remedy_for_nodes_of_torchdata_is_a_node():
    nodes = pytest.importorskip("torchdata.nodes")

    def remedy(node, *args, **options):
        source = nodes.Batcher(nodes.SamplerWrapper(SequentialSampler(range(4))), 2)
        return remedy_for(nodes.Loader(node(source, *args, **options)), 0.5)

    assert "nodes.ParallelMapper(source, function, num_workers=2)" in remedy(nodes.Mapper, str)
    assert "nodes.Prefetcher(source, prefetch_factor=2)" in remedy(nodes.Mapper, str)
    threads = remedy(nodes.ParallelMapper, str, num_workers=3)
    assert "in the ParallelMapper (it has num_workers=3," in threads
    assert "method='process'" in threads
    assert "method=" not in remedy(nodes.ParallelMapper, str, num_workers=3, method="process")


def test_an_operation_that_sleeps_is_found():
    class Slow(Learner):
        def forward(self):
            nap()
            super().forward()

    plain = make()
    cost = Slow(plain.model, plain.data, F.mse_loss, plain.optimizer).cost(20)
    assert is_nap(cost.operations["forward"])
    assert cost.bare is not None
    assert cost.bare > NAP  # the bare loop does the work of the learner's class


def test_code_around_an_operation_counts_for_its_callback():
    class Around(Callback):
        surrounds = ("forward",)

        def surround(self, learn, operation):
            nap()
            return super().surround(learn, operation)

    cost = make(Around()).cost(20)
    assert is_nap(cost.callbacks["around"].step)
    assert cost.operations["forward"] < cost.callbacks["around"].step


def test_nested_time_is_counted_once():
    class Slow(Learner):
        def forward(self):
            nap()
            super().forward()

    class Around(Callback):
        surrounds = ("forward",)

    plain = make()
    cost = Slow(plain.model, plain.data, F.mse_loss, plain.optimizer, [Around()]).cost(20)
    assert cost.callbacks["around"].step < NAP / 2 < cost.operations["forward"]


def test_a_callback_that_runs_at_intervals_counts_by_its_share():
    cost = make(When(Sleeper(), every="5 steps")).cost(40)
    assert is_nap(cost.callbacks["sleeper"].step, 1 / 5)


def test_the_parts_are_those_that_the_learner_has():
    cost = make().cost(20)
    assert list(cost.operations) == ["place", "forward", "compute_loss", "backward", "step", "zero_grad"]
    assert set(cost.callbacks) == {
        *("zero_grad", "device_placement", "stop_on_nan", "metrics", "recorder", "progress")
    }
    assert all(seconds > 0 for seconds in cost.operations.values())
    assert cost.device_waits == {}
    assert cost.device == "cpu"
    assert cost.n_steps >= 20
