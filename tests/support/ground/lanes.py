"""An imitated stream, which copies late."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks import (
    Callback,
    DevicePlacement,
    Metrics,
    Recorder,
    ZeroGrad,
)
from callbacks.place import device
from callbacks.place.device import tensors_in
from learner import Data, Learner

N, SIZE = 41, 4


class Event:
    def __init__(self, lane, n_asked):
        self.lane, self.n_asked = lane, n_asked

    def synchronize(self):
        self.lane.finish(self.n_asked)


class FakeLane:
    """A device whose copies end only when its computations are waited for."""

    def __init__(self, pinned=()):
        self.pinned = {tensor.untyped_storage().data_ptr() for tensor in pinned}
        self.flights, self.there, self.owned = [], {}, []
        self.n_begun = self.n_done = self.most = self.n_torn = self.n_pinned = 0

    def takes(self, tensor):
        return type(tensor) is torch.Tensor and id(tensor) not in self.there

    def is_pinned(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.pinned

    def pin(self, tensor):
        self.n_pinned += 1
        return tensor.clone()

    def send(self, tensor):
        made = tensor.clone()
        self.flights.append((self.n_begun, tensor, made))
        self.there[id(made)] = made
        return made

    def hand_over(self, tensors):
        self.owned += tensors

    def reached(self):
        self.n_begun += 1
        self.most = max(self.most, self.n_begun - self.n_done)
        return Event(self, self.n_begun)

    def finish(self, n_begun):
        """Computations before this batch are done, so their copies are."""
        self.n_done = max(self.n_done, n_begun - 1)
        for flight in [each for each in self.flights if each[0] < n_begun]:
            self.flights.remove(flight)
            self.n_torn += not torch.equal(flight[1], flight[2])


def imitated(monkeypatch, pinned=()):
    made = FakeLane(pinned)
    monkeypatch.setattr(device, "lane_to", lambda _: made)
    return made


class Noisy(torch.utils.data.Dataset):
    """Items with noise from the generator of dropout; the number of fetched items is counted."""

    n_fetched = 0

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.n_fetched += 1
        return torch.rand(3) + index / N, torch.tensor([index / N])


class Batches(Callback):
    """A callback that keeps the sum of each batch."""

    state = ("sums",)

    def __init__(self):
        super().__init__()
        self.sums = []

    def after_batch(self, learn):
        self.sums.append([tensor.double().sum().item() for tensor in tensors_in(learn.batch)])


def make(*callbacks, prefetch=True, train=None, valid=None, seed=1, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1))
    train = DataLoader(Noisy(), SIZE, shuffle=True) if train is None else train
    return Learner(
        model,
        Data(train, valid),
        F.mse_loss,
        partial(torch.optim.Adam, lr=0.01),
        [DevicePlacement("cpu", prefetch=prefetch), Batches(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
        **options,
    )


def outcome(learn, *more):
    rows = [{name: row[name] for name in row if name != "seconds"} for row in learn.history]
    weights = [tensor.tolist() for tensor in learn.model.state_dict().values()]
    clock = (learn.epoch, learn.global_step, learn.n_samples, learn.stop_reason)
    return weights, rows, learn.callbacks[Batches].sums, clock, torch.rand(()).item(), *more
