"""`Every`: when something that happens at intervals is due."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import Callback, CancelStep, Every, ZeroGrad
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


class Due(Callback):
    """A callback that records the step or the epoch at which it is due."""

    def __init__(self, interval, started=True):
        super().__init__()
        self.every, self.started = Every(interval), started
        self.steps, self.epochs = [], []

    def before_fit(self, learn):
        if self.started:
            self.every.start(learn)

    def after_batch(self, learn):
        if self.every.after_batch(learn):
            self.steps.append(learn.global_step)

    def after_epoch(self, learn):
        if self.every.after_epoch(learn):
            self.epochs.append(learn.epoch)


class AddUp(Callback):
    """A callback that adds the gradients of two batches."""

    def before_step(self, learn):
        if learn.batch_idx % 2 == 0:
            raise CancelStep


def make(*callbacks, n_batches=4):
    sgd = partial(torch.optim.SGD, lr=1e-3)
    data = ([BATCH] * n_batches, [BATCH] * 3)
    return Learner(nn.Linear(1, 1), data, mse_loss, sgd, [ZeroGrad(), *callbacks], defaults=())


def due_in(interval, n_epochs=3, **settings):
    due = Due(interval, **settings)
    make(due).fit(n_epochs)
    return due.steps, due.epochs


@pytest.mark.parametrize("started", [True, False])
def test_steps_are_counted_over_epochs_and_never_due_in_validation(started):
    assert due_in("1 step", started=started) == (list(range(1, 13)), [])
    assert due_in("5 steps", started=started) == ([5, 10], [])


def test_epochs_are_due_at_their_end_only():
    assert due_in("1 epoch") == ([], [0, 1, 2])
    assert due_in("2 epochs") == ([], [1])


@pytest.mark.parametrize("started", [True, False])
def test_samples_are_due_at_the_batch_that_completes_them(started):
    assert due_in("10 samples", n_epochs=2, started=started) == ([3, 5, 8], [])


def test_an_interval_shorter_than_a_batch_is_due_at_each_batch_once():
    assert due_in("1 sample", n_epochs=1) == ([1, 2, 3, 4], [])


def test_seconds_are_due_when_so_many_have_passed_since_the_last_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("callbacks.core.ranks.time.monotonic", lambda: now[0])

    class Tick(Callback):
        def before_batch(self, learn):
            now[0] += 1

    due = Due("2.5 seconds")
    make(Tick(), due, n_batches=8).fit(1)
    assert due.steps == [3, 6]
    assert (Every("2 minutes").number, Every("1 hour").unit) == (2, "hour")


def test_a_second_fit_continues_the_steps_and_restarts_the_epochs():
    due = Due("5 steps")
    learn = make(due)
    learn.fit(1)
    learn.fit(2)
    assert due.steps == [5, 10]
    due = Due("2 epochs")
    learn = make(due)
    learn.fit(3)
    learn.fit(3)
    assert due.epochs == [1, 1]


@pytest.mark.parametrize("started", [True, False])
def test_after_a_snapshot_is_restored_the_same_steps_are_due_again(started):
    due = Due("3 steps", started=started)
    learn = make(due, n_batches=5)
    learn.fit(1)
    kept = learn.snapshot()
    learn.fit(2)
    first, due.steps = due.steps, []
    learn.restore(kept)
    learn.fit(2)
    assert first == [3, 6, 9, 12, 15]
    assert due.steps == [6, 9, 12, 15]


@pytest.mark.parametrize("started", [True, False])
def test_batches_whose_gradients_only_add_up_are_not_due(started):
    due = Due("1 step", started=started)
    make(AddUp(), due).fit(2)
    assert due.steps == [1, 2, 3, 4]


def test_an_interval_can_be_made_from_another_and_its_repr_is_what_was_written():
    assert repr(Every(Every("10 Steps"))) == "Every('10 Steps')"
    assert (Every("10 Steps").number, Every("1e6samples").number) == (10, 1e6)


def test_a_callback_shows_its_interval_among_its_settings():
    assert "every=Every('2 epochs')" in repr(Due("2 epochs"))


@pytest.mark.parametrize(
    "interval",
    [
        *("", "step", "10", 10, None, True, ["1 step"], "1 step 2", "2 batches"),
        *("0 steps", "-1 steps", "1.5 steps", "0.5 epochs", "1.2.3 seconds"),
        *("nan steps", "inf seconds", "1e999 steps", "1e999 seconds"),
    ],
)
def test_an_invalid_interval_is_refused_with_an_example(interval):
    with pytest.raises(ValueError, match="write a positive number and a unit, as in '10 steps'") as caught:
        Every(interval)
    assert str(caught.value).startswith(f"every={interval!r}: ")
