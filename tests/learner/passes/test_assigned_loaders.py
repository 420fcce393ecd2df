"""A new loader for each epoch, and streams that are refused."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from torch.utils.data import DataLoader, Sampler
from upper.continuing_data import BATCHES, ROWS, Crash, X, endless, resumed

from callbacks import Callback, Checkpoint, ShortEpoch
from learner import Data, TensorLoader

pytestmark = pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")


# A new loader for each epoch


class Grow(Callback):
    """A callback that assigns a loader of larger batches before each epoch: 4, 8, 16 items."""

    def before_epoch(self, learn):
        learn.data.train = TensorLoader((X, X), 4 * 2**learn.epoch, shuffle=True, seed=learn.epoch)


class GrowInPlace(Callback):
    def before_epoch(self, learn):
        learn.data.train.batch_size *= 2


class GrowFromTheLast(Callback):
    def before_epoch(self, learn):
        learn.data.train = TensorLoader((X, X), 2 * learn.data.train.batch_size)


class GrowLoader(Callback):
    def before_epoch(self, learn):
        learn.data.train = DataLoader(ROWS, 4 * 2**learn.epoch, shuffle=True)


class Shrink(Sampler):
    """A sampler with fewer items in each epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 48 >> self.epoch

    def __iter__(self):
        return iter(range(len(self)))


@pytest.mark.parametrize(
    ("every", "step"), [("3 steps", 8), ("3 steps", 20), ("1 epoch", 14), ("1 epoch", 20)]
)
@pytest.mark.parametrize("grow", [Grow, GrowInPlace, GrowFromTheLast, GrowLoader])
def test_epochs_of_growing_batches_resume_at_their_position(grow, every, step, make_learner, tmp_path):
    def make(*callbacks):
        size = 2 if grow in (GrowInPlace, GrowFromTheLast) else 4
        return make_learner(data=Data(TensorLoader((X, X), size)), callbacks=[grow, *callbacks])

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step, 3)
    assert seen == expected
    assert is_equal


@pytest.mark.parametrize(("every", "step"), [("5 steps", 14), ("1 epoch", 20)])
def test_a_sampler_whose_length_depends_on_the_epoch_resumes(every, step, make_learner, tmp_path):
    def make(*callbacks):
        return make_learner(data=Data(DataLoader(ROWS, 4, sampler=Shrink())), callbacks=callbacks)

    expected, seen, is_equal = resumed(make, tmp_path / "run", every, step, 3)
    assert seen == expected
    assert is_equal


@pytest.mark.parametrize("every", ["1 step", "1 epoch"])
def test_resuming_is_refused_if_assigned_data_is_missing(every, make_learner, tmp_path):
    class Once(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.data.train = TensorLoader((X[:24], X[:24]), 4)

    def make():
        return make_learner(
            data=Data(TensorLoader((X, X), 4)), callbacks=[Once, Checkpoint(tmp_path, every=every)]
        )

    with pytest.raises(RuntimeError, match="crash"):
        make().fit(4, callbacks=[Crash(20)])
    with pytest.raises(
        ValueError, match=r"training data that differs from that of epoch 2 now[\s\S]*n_items: 24, 48"
    ):
        make().fit(4, resume="must")


def test_a_short_epoch_of_an_endless_stream_resumes_at_its_position(make_learner, tmp_path):
    class Endless:
        def __init__(self):
            self.stream = endless()

        def __iter__(self):
            return self.stream

    def make(*callbacks):
        return make_learner(data=Data(Endless()), callbacks=[ShortEpoch(2), *callbacks])

    expected, seen, _ = resumed(make, tmp_path / "run", "1 epoch", 6)
    assert seen == expected


def test_the_first_save_of_batches_in_a_list_raises_no_warning(make_learner, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(data=Data(BATCHES), callbacks=[Checkpoint(tmp_path / "run")]).fit(2)


def test_a_function_that_reads_a_class_of_iterators_is_not_a_stream(make_learner, tmp_path):
    def batches():
        yield from pairwise(torch.rand(4, 2, 1).unbind())

    learn = make_learner(data=Data(batches), callbacks=[Checkpoint(tmp_path / "run")])
    assert len(learn.fit(2)) == 2
