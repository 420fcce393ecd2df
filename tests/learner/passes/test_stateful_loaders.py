"""Loaders that keep their own position, and the limits of resuming."""

from __future__ import annotations

import random
import re
import warnings
from functools import partial

import pytest
import torch
from interrupted_passes import (
    BATCH_SIZE,
    CUTS,
    FEW,
    N_ITEMS,
    REPLAYED,
    SKIPPED,
    WHOLE,
    WORKERS,
    Noisy,
    Plain,
    Stream,
    assert_resumes,
    assert_same,
    loader_over,
    rest_of_one,
    scramble,
    train_on,
)
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from callbacks import Checkpoint, LearnerWarning
from learner import Data, Learner
from learner.data.seeded import Seeded
from learner.passes import positions

# StatefulDataLoader 0.11 calls a deprecated function of torch.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


# Loaders that keep their own position


class Counting:
    """A loader that saves and restores its position."""

    def __init__(self):
        self.n, self.rng = 0, random.Random(1)

    def state_dict(self):
        return {"n": self.n, "rng": self.rng.getstate()}

    def load_state_dict(self, state):
        self.n = state["n"]
        self.rng.setstate(state["rng"])

    def __iter__(self):
        while self.n < 14:
            self.n += 1
            yield torch.tensor([self.n, self.rng.random(), torch.rand(()).item()])
        self.n = 0


def test_a_loader_with_a_state_dict_resumes_at_its_position():
    assert_resumes(Counting, CUTS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stateful_loader_resumes_with_the_same_bits_also_if_the_data_set_draws(shuffle):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert_resumes(lambda: nodes.StatefulDataLoader(Noisy(), BATCH_SIZE, shuffle=shuffle), CUTS)


@pytest.mark.parametrize("every", ["1 step", "1 epoch"])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_checkpoints_change_nothing_if_the_validation_data_is_a_stateful_loader(n_workers, every, tmp_path):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")

    def weights(*callbacks):
        torch.manual_seed(0)
        rows = TensorDataset(torch.rand(20, 3), torch.rand(20, 1))
        data = Data(
            DataLoader(rows, 4, shuffle=True), nodes.StatefulDataLoader(rows, 4, num_workers=n_workers)
        )
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))
        learn = Learner(model, data, nn.functional.mse_loss, partial(torch.optim.SGD, lr=0.1), callbacks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LearnerWarning)  # workers, and the same data twice
            learn.fit(2)
        return [*model.parameters(), torch.get_rng_state()]

    expected, found = weights(), weights(Checkpoint(tmp_path, every))
    assert all(map(torch.equal, found, expected))


def test_saving_before_the_first_fit_changes_nothing_if_the_data_is_a_stateful_loader(tmp_path):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")

    def weights(save):
        torch.manual_seed(0)
        rows = TensorDataset(torch.rand(20, 3), torch.rand(20, 1))
        loader = nodes.StatefulDataLoader(rows, 4, shuffle=True)
        learn = Learner(
            nn.Linear(3, 1), Data(loader), nn.functional.mse_loss, partial(torch.optim.SGD, lr=0.1)
        )
        if save:
            learn.save(tmp_path / "before.pt")
        torch.manual_seed(1)
        learn.fit(2)
        return [*learn.model.parameters(), torch.get_rng_state()]

    assert all(map(torch.equal, weights(True), weights(False)))


def test_a_stateful_loader_does_not_fetch_items_that_were_seen():
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    loader, rest = rest_of_one(lambda: nodes.StatefulDataLoader(Noisy(), BATCH_SIZE, shuffle=True))
    assert loader.dataset.fetched.sum() == 0
    list(rest)
    assert loader.dataset.fetched.sum() == N_ITEMS - 15


@pytest.mark.parametrize("dataset", [Plain, lambda: Seeded(Noisy())])
def test_a_stateful_loader_with_workers_resumes_if_the_data_set_draws_nothing(dataset):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert_resumes(lambda: nodes.StatefulDataLoader(dataset(), BATCH_SIZE, shuffle=True, num_workers=2), FEW)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_a_stateful_loader_saved_at_the_end_of_a_pass_starts_the_next(workers):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")

    def train(loader, n_epochs):
        for _ in range(n_epochs):
            positions.mark(loader)
            yield train_on(loader, [])

    def make():
        return nodes.StatefulDataLoader(Plain(), BATCH_SIZE, shuffle=True, **workers)

    scramble(0)
    loader = make()
    list(train(loader, 2))
    saved = positions.now(loader)
    expected = list(train(loader, 2))
    scramble(99)
    loader = make()
    loader.load_state_dict(saved["loader"])
    positions.restore(loader, saved)
    assert_same(list(train(loader, 2)), expected)


# Limits

ROWS = TensorDataset(torch.arange(6.0))


@pytest.mark.parametrize(
    "make",
    [
        *SKIPPED.values(),
        *WHOLE.values(),
        *(make for kind, make in WORKERS.items() if kind != "no noise, persistent"),
        REPLAYED["workers"],
        REPLAYED["workers over a stream"],
        Counting,
    ],
)
def test_loaders_that_resume_with_the_same_bits_have_no_limits(make):
    assert positions.limits(make()) is None


@pytest.mark.parametrize(
    "dataset",
    [ROWS, Subset(ROWS, [2, 0]), ConcatDataset([ROWS, Subset(ROWS, range(3))])],
    ids=["tensors", "a subset", "several"],
)
def test_persistent_workers_over_rows_of_tensors_have_no_limits(dataset):
    assert positions.limits(loader_over(dataset, num_workers=1, persistent_workers=True)) is None


def test_persistent_workers_whose_collate_fn_may_draw_are_reported():
    loader = loader_over(ROWS, num_workers=1, persistent_workers=True, collate_fn=list)
    assert "persistent_workers" in positions.limits(loader)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            WORKERS["no noise, persistent"],
            r"persistent workers .* wrap the data set, Seeded\(dataset\), or leave",
        ),
        (lambda: loader_over(Stream(), num_workers=1, persistent_workers=True), "epochs: leave persistent"),
        (
            lambda: loader_over(Seeded(Noisy()), num_workers=2, in_order=False),
            "in_order=False .* leave it out",
        ),
        (REPLAYED["a stream with a generator"], r"DataLoader over a Steady are drawn again .* state_dict"),
        (REPLAYED["a function"], "the function batches are drawn again"),
        (REPLAYED["an __iter__ of its own"], "DataLoader over a Plain are drawn again"),
    ],
)
def test_limits_are_reported_with_a_fix(make, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert re.search(words, positions.limits(make()))


def test_the_lost_states_of_workers_of_a_stateful_loader_are_reported():
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert positions.limits(nodes.StatefulDataLoader(Noisy(), 3)) is None
    assert "Seeded" in positions.limits(nodes.StatefulDataLoader(Noisy(), 3, num_workers=2))
    assert positions.limits(nodes.StatefulDataLoader(Seeded(Noisy()), 3, num_workers=2)) is None
