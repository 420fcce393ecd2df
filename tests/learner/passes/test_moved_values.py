"""Values in samplers, data sets and collate functions that change during a run, and runs that resume."""

from __future__ import annotations

import random
import warnings
from itertools import pairwise

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from upper.continuing_data import ROWS, X, resumed

from callbacks import Callback, Checkpoint
from learner import Data


class Scaled(Dataset):
    """Rows times a factor, with more noise the harder they are."""

    def __init__(self):
        self.factor, self.is_noisy = 1.0, False

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        row = X[index] * self.factor + (0.1 * torch.rand(1) if self.is_noisy else 0)
        return row, X[index]


class Resize:
    """Another scale after each third batch, as detectors change the size of their images."""

    def __init__(self):
        self.n_batches, self.scale = 0, 1.0

    def __call__(self, items):
        if self.n_batches % 3 == 2:
            self.scale = random.choice([0.5, 1.0, 2.0])
        self.n_batches += 1
        inputs, targets = default_collate(items)
        return inputs * self.scale, targets


class Planned(BatchSampler):
    """Batches of 2 to 6 items, which are planned again after each pass."""

    def __init__(self):
        self.random = random.Random(0)
        self.plan()

    def plan(self):
        rest = list(range(len(X)))
        self.random.shuffle(rest)
        self.batches = []
        while rest:
            size = self.random.randint(2, 6)
            self.batches.append(rest[:size])
            rest = rest[size:]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield from self.batches
        self.plan()


class PlannedFirst(Planned):
    """The same, planned before each pass."""

    def __iter__(self):
        self.plan()
        yield from self.batches


class Harder(Callback):
    def after_epoch(self, learn):
        learn.data.train.dataset.factor *= 1.5


class HarderByLoss(Callback):
    def after_epoch(self, learn):
        learn.data.train.dataset.factor = 1 + learn.results["train_loss"]


class NoiseOnce(Callback):
    def before_epoch(self, learn):
        if learn.epoch == 1:
            learn.data.train.dataset.is_noisy = True


class Reweigh(Callback):
    def after_epoch(self, learn):
        learn.data.train.sampler.weights = torch.rand(48, dtype=torch.float64)


class ReweighByLoss(Callback):
    def after_batch(self, learn):
        if learn.training:
            learn.data.train.sampler.weights[learn.batch_idx] += 10 * learn.loss.item()


class Rotate(Callback):
    def after_epoch(self, learn):
        indices = learn.data.train.sampler.indices
        indices[:] = [(index + 7) % 48 for index in indices]


class Grow(Callback):
    def after_epoch(self, learn):
        learn.data.train.batch_sampler.batch_size += 2


class GrowBefore(Callback):
    def before_epoch(self, learn):
        if learn.epoch:
            learn.data.train.batch_sampler.batch_size *= 2


class GrowByEpoch(Callback):
    def before_epoch(self, learn):
        learn.data.train.batch_sampler.batch_size = 4 + 2 * learn.epoch


def stateful(dataset, **options):
    """A `StatefulDataLoader`, whose state holds its position but not the values of its parts."""
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    return nodes.StatefulDataLoader(dataset, 4, **options)


def weighted():
    return DataLoader(ROWS, 4, sampler=WeightedRandomSampler([1.0] * 48, 48))


CASES = {
    "a factor of the data set": (lambda: DataLoader(Scaled(), 4, shuffle=True), Harder),
    "a factor that depends on the loss": (lambda: DataLoader(Scaled(), 4, shuffle=True), HarderByLoss),
    "a factor in the copies of a worker": (lambda: DataLoader(Scaled(), 4, num_workers=1), Harder),
    "a flag": (lambda: DataLoader(Scaled(), 4, shuffle=True), NoiseOnce),
    "new weights of the items": (weighted, Reweigh),
    "weights that change in each batch": (weighted, ReweighByLoss),
    "indices": (lambda: DataLoader(ROWS, 4, sampler=SubsetRandomSampler(list(range(24)))), Rotate),
    "batches that grow": (lambda: DataLoader(ROWS, 4, shuffle=True), Grow),
    "batches that grow before each epoch": (lambda: DataLoader(ROWS, 4, shuffle=True), GrowBefore),
    "batches that grow by the epoch": (lambda: DataLoader(ROWS, 4, shuffle=True), GrowByEpoch),
    "a counter of collate_fn": (lambda: DataLoader(ROWS, 4, shuffle=True, collate_fn=Resize()), None),
    "a factor under a loader with a state": (lambda: stateful(Scaled(), shuffle=True), Harder),
    "a counter under a loader with a state": (lambda: stateful(ROWS, collate_fn=Resize()), None),
    "batches planned after each pass": (lambda: DataLoader(ROWS, batch_sampler=Planned()), None),
    "batches planned before each pass": (lambda: DataLoader(ROWS, batch_sampler=PlannedFirst()), None),
}


@pytest.mark.parametrize(("every", "step"), [("2 steps", 5), ("2 steps", 17), ("1 epoch", 15)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:the training data claims to have:callbacks.LearnerWarning")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # by StatefulDataLoader 0.11
def test_a_run_resumes_with_values_that_changed_during_the_run(case, every, step, make_learner, tmp_path):
    loader, callback = CASES[case]

    def make(*callbacks):
        random.seed(0)
        torch.manual_seed(0)  # a `StatefulDataLoader` draws its seed when it is made
        own = [] if callback is None else [callback]
        return make_learner(data=Data(loader()), callbacks=[*own, *callbacks])

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step)
    assert seen == expected
    assert is_equal


def test_a_value_that_nothing_has_changed_is_taken_from_the_script(make_learner, tmp_path):
    def make(factor):
        dataset = Scaled()
        dataset.factor = factor
        return make_learner(data=Data(DataLoader(dataset, 4)), callbacks=[NoiseOnce, Checkpoint(tmp_path)])

    make(1.0).fit(2)
    learn = make(3.0)
    learn.fit(3, resume="must")
    assert (learn.data.train.dataset.factor, learn.data.train.dataset.is_noisy) == (3.0, True)


def test_a_data_set_opens_its_file_again_in_a_resumed_run(make_learner, tmp_path):
    class Opened(Scaled):
        def __init__(self):
            super().__init__()
            self.file, self.is_open, self.read = [], False, {}

        def __getitem__(self, index):
            if not self.is_open:
                self.file, self.is_open = X.tolist(), True
            self.read[index] = True
            return torch.tensor(self.file[index]), X[index]

    def make():
        return make_learner(data=Data(DataLoader(Opened(), 4)), callbacks=[Checkpoint(tmp_path)])

    make().fit(2)
    learn = make()
    learn.fit(3, resume="must")
    assert learn.data.train.dataset.is_open


def test_a_data_set_that_holds_its_learner_resumes_with_more_epochs(make_learner, tmp_path):
    def make():
        learn = make_learner(data=Data(DataLoader(Scaled(), 4)), callbacks=[Checkpoint(tmp_path)])
        learn.data.train.dataset.learn = learn
        return learn

    make().fit(2)
    learn = make()
    learn.fit(4, resume="must")
    assert len(learn.history) == 4


def test_a_sandbox_restores_the_values(make_learner):
    learn = make_learner(data=Data(DataLoader(Scaled(), 4)), callbacks=[Harder])
    with learn.sandbox():
        learn.fit(2)
    assert learn.data.train.dataset.factor == 1


def test_a_sampler_that_plans_fewer_batches_in_an_epoch_raises_no_warning(make_learner):
    learn = make_learner(data=Data(DataLoader(ROWS, batch_sampler=Planned())))
    lengths = []

    class Lengths(Callback):
        def after_train(self, learn):
            lengths.append(learn.n_batches)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(6, callbacks=[Lengths])
    assert any(second < first for first, second in pairwise(lengths))


def test_data_that_grows_item_by_item_is_refused_when_the_run_resumes(make_learner, tmp_path):
    class Rows(Dataset):
        def __init__(self):
            self.rows = [(x, x) for x in X]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    class Collect(Callback):
        def after_epoch(self, learn):
            learn.data.train.dataset.rows.append((X[0], X[0]))

    def make():
        data = Data(DataLoader(Rows(), 4, shuffle=True))
        return make_learner(data=data, callbacks=[Collect, Checkpoint(tmp_path)])

    make().fit(2)
    with pytest.raises(ValueError, match="n_items: 50, 48"):
        make().fit(3, resume="must")
