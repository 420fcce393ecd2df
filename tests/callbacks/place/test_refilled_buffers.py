"""Prefetching from loaders that fill their buffers again, batches of every kind, and a GPU."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from ground.lanes import SIZE, Batches, FakeLane, Noisy, imitated, make, outcome
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from waits import fit_strictly

from callbacks import (
    DevicePlacement,
)
from callbacks.place.device import map_tensors, tensors_in
from callbacks.place.prefetch import CudaLane, Prefetch
from learner import Data, Learner
from learner.learner import DEFAULT_CALLBACKS
from tests.callbacks.place.test_device import NESTS

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture
def lane(monkeypatch):
    return imitated(monkeypatch)


# Loaders that fill their buffers again


class Filling:
    """A loader that fills the same two tensors again for each batch."""

    def __init__(self, fill="torch"):
        self.inputs, self.targets, self.fill = torch.zeros(SIZE, 3), torch.zeros(SIZE, 1), fill

    def __iter__(self):
        for number in range(9):
            if self.fill == "torch":
                self.inputs.fill_(number / 9)
                self.targets.fill_(number)
            else:
                self.inputs.numpy()[:] = number / 9
                self.targets.numpy()[:] = number
            yield self.inputs, self.targets


@pytest.mark.parametrize("fill", ["torch", "numpy"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_loader_that_fills_its_buffers_again_is_copied_before_it_does(monkeypatch, fill, pinned):
    loader = Filling(fill)
    lane = imitated(monkeypatch, pinned=(loader.inputs, loader.targets) if pinned else ())
    learn = make(train=loader)
    learn.fit(2)
    lane.finish(10**6)
    assert lane.n_torn == 0
    assert [sums[1] for sums in learn.callbacks[Batches].sums] == [4.0 * n for n in range(9)] * 2


def pinning(collate, items):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no device here to pin memory for
        return DataLoader(TensorDataset(*items), SIZE, pin_memory=True, collate_fn=collate)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_overwritten_pinned_memory_is_an_error_with_a_hint(monkeypatch):
    inputs, targets = torch.zeros(SIZE, 3), torch.zeros(SIZE, 1)

    def collate(rows):
        torch.stack([row[0] for row in rows], out=inputs)
        torch.stack([row[1] for row in rows], out=targets)
        return inputs, targets

    imitated(monkeypatch, pinned=(inputs, targets))
    learn = make(train=pinning(collate, (torch.rand(8, 3), torch.rand(8, 1))))
    with pytest.raises(
        ValueError, match=r"overwritten the pinned memory .*buffer\.clone\(\), or omit pin_memory"
    ):
        learn.fit(1)
    assert learn.callbacks[DevicePlacement]._lane is None


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_pinned_memory_of_a_dataloader_is_sent_without_a_copy_and_reused_memory_with_one(monkeypatch):
    inputs, targets = torch.rand(SIZE, 3), torch.rand(SIZE, 1)
    lane = imitated(monkeypatch, pinned=(inputs, targets))
    learn = make(train=pinning(lambda rows: (inputs, targets), (torch.rand(12, 3), torch.rand(12, 1))))
    learn.fit(1)
    assert lane.n_pinned == 4  # of three batches, the first went as it was
    assert lane.n_torn == 0


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_fresh_memory_of_a_dataloader_is_held_until_it_is_copied(monkeypatch):
    lane = imitated(monkeypatch)
    monkeypatch.setattr(lane, "is_pinned", lambda tensor: True)
    learn = make(train=pinning(None, (torch.rand(40, 3), torch.rand(40, 1))))
    learn.fit(2)
    assert lane.n_pinned == 0
    assert lane.n_torn == 0


# Batches of every kind


@pytest.mark.parametrize("kind", NESTS)
def test_every_tensor_of_a_nest_is_sent_on_the_stream_and_the_nest_keeps_its_types(kind):
    batch, lane = NESTS[kind](), FakeLane()
    placed = Prefetch(lane).place(batch, False, map_tensors, lambda leaf: leaf)
    before, after = list(tensors_in(batch)), list(tensors_in(placed))
    assert type(placed) is type(batch)
    plain = [tensor for tensor in before if type(tensor) is torch.Tensor]
    assert len(lane.owned) == len(plain)
    assert all(map(torch.equal, before, after))
    assert all(one is not other for one, other in zip(before, after, strict=True)) or kind == "parameter"


def test_a_tensor_on_the_device_is_not_sent_again(lane):
    learn = make(train=[(torch.ones(2, 3), torch.ones(2, 1))] * 3)
    learn.fit(1)
    assert lane.n_pinned == 6
    n_begun, there = lane.n_begun, tuple(lane.there.values())[:2]
    learn.data.train = [there] * 3
    learn.fit(1)
    assert lane.n_pinned == 6
    assert lane.n_begun == n_begun  # nothing is marked or waited for, either


def test_batches_are_sent_on_the_separate_stream_unless_it_is_switched_off(lane):
    learn = make(train=[(torch.ones(2, 3), torch.ones(2, 1))] * 3)
    learn.callbacks[DevicePlacement].__init__("cpu")
    learn.fit(1)
    assert lane.n_pinned == 6
    learn.callbacks[DevicePlacement].__init__("cpu", prefetch=False)
    learn.fit(1)
    assert lane.n_pinned == 6


def test_validation_uses_the_stream_and_the_callback_keeps_none(lane):
    learn = make(valid=DataLoader(Noisy(), SIZE))
    learn.validate()
    assert lane.n_begun == 10  # nothing is computed when the first batch comes
    learn.predict(torch.ones(2, 3))  # one batch: there is nothing to be ahead of
    assert lane.n_begun == 10
    assert learn.callbacks[DevicePlacement]._lane is None


def test_predictions_for_a_loader_use_the_separate_stream_and_the_learner_can_be_copied_afterwards(lane):
    learn = make(valid=[(torch.rand(4, 3), torch.rand(4, 1)) for _ in range(5)])
    found, _ = learn.get_preds()
    assert lane.n_begun == 4
    twin = copy.deepcopy(learn)
    assert twin.callbacks[DevicePlacement]._lane is None
    learn.callbacks[DevicePlacement].__init__("cpu", prefetch=False)
    assert torch.equal(learn.get_preds()[0], found)
    assert lane.n_begun == 4


def test_on_a_cpu_prefetch_changes_nothing():
    found = []
    for prefetch in (False, True):
        learn = make(prefetch=prefetch)
        learn.fit(2)
        assert learn.callbacks[DevicePlacement]._lane is None
        found.append(outcome(learn))
    assert found[0] == found[1]


@pytest.mark.parametrize("value", [2, "yes", None])
def test_prefetch_must_be_true_or_false(value):
    with pytest.raises(TypeError, match=r"prefetch=.*must be True or False"):
        DevicePlacement("cpu", prefetch=value)


# On a GPU: none of this has run there yet


def arrays(kind):
    inputs, targets = np.random.default_rng(0).random((640, 3), "float32"), np.ones((640, 1), "float32")
    if kind == "tensors":
        return Data.from_tensors(inputs, targets, 32, valid=None, seed=0).train
    dataset = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))
    return DataLoader(dataset, 32, shuffle=True, pin_memory=kind == "pinned")


@CUDA
@pytest.mark.parametrize("kind", ["tensors", "plain", "pinned"])
def test_on_cuda_the_weights_are_the_same_without_prefetch(kind):
    found = []
    for prefetch in (False, True):
        learn = make(train=arrays(kind))
        learn.callbacks[DevicePlacement].__init__("cuda", prefetch=prefetch)
        learn.fit(3)
        found.append([tensor.cpu() for tensor in learn.model.state_dict().values()])
    assert all(map(torch.equal, *found))


@CUDA
@pytest.mark.parametrize("prefetch", [False, True])
def test_on_cuda_no_step_of_the_defaults_waits(prefetch):
    learn = Learner(
        nn.Linear(3, 1),
        Data(arrays("pinned")),
        F.mse_loss,
        partial(torch.optim.SGD, lr=0.1),
        [DevicePlacement("cuda", prefetch=prefetch)],
        defaults=[each for each in DEFAULT_CALLBACKS if each.__name__ != "Progress"],
    )
    fit_strictly(learn, torch.cuda.set_sync_debug_mode)


@CUDA
def test_on_cuda_a_lane_overlaps_and_its_copies_are_whole():
    lane = CudaLane(torch.device("cuda", 0))
    fetch = Prefetch(lane)
    for number in range(20):
        host = torch.full((1 << 20,), float(number))
        (there,) = fetch.place((host,), False, map_tensors, lambda leaf: leaf)
        host.zero_()
        torch.cuda._sleep(10_000_000)
        assert there.sub(number).abs().max().item() == 0
