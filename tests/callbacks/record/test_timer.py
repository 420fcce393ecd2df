"""Times, by a clock that only the tests move."""

import math
import statistics

import pytest

from callbacks import Callback, Checkpoint, Timer, ValidateEvery
from callbacks.record import timer


class Clock:
    """A clock that only the test moves."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer, "time", clock)
    return clock


class Work(Callback):
    """A callback that takes the given seconds for updates, 1 for a validation batch, 10 for saving."""

    order = Checkpoint.order

    def __init__(self, clock, seconds, fail_at=None):
        super().__init__(name="work")
        self.clock, self.seconds, self.fail_at = clock, list(seconds), fail_at

    def before_batch(self, learn):
        self.clock.now += self.seconds[learn.global_step] if learn.training else 1

    def after_batch(self, learn):
        if learn.training and learn.global_step == self.fail_at:
            raise ZeroDivisionError

    def after_epoch(self, learn):
        self.clock.now += 10


def test_epochs_passes_and_steps_are_timed_without_the_first_step_of_a_fit(make_learner, clock):
    seconds = [50, 3, 5, 7, 2, 4]
    history = make_learner(callbacks=[Timer(), Work(clock, seconds)]).fit(2)
    assert history["train_seconds"] == [58, 13]
    assert history["valid_seconds"] == [2, 2]
    assert history["epoch_seconds"] == [60, 15]
    assert history["step_seconds"] == [statistics.median([3, 5]), statistics.median([7, 2, 4])]


def test_the_remaining_time_uses_the_last_epoch_without_warm_up(make_learner, clock):
    history = make_learner(callbacks=[Timer(), Work(clock, [50, 3, 5, *[1] * 9])]).fit(4)
    # 60 less the first update; then from end to end: 3 + 2 and the 10 of what comes after the measuring
    assert history["seconds_left"] == [3 * 10, 2 * 15, 15, 0]


def test_a_fit_of_one_update_has_no_step_time(make_learner, clock):
    history = make_learner(n_batches=1, callbacks=[Timer(), Work(clock, [5, 2])]).fit(2)
    assert math.isnan(history["step_seconds"][0])
    assert history["step_seconds"][1] == 2


def test_validation_in_mid_epoch_is_timed_by_itself(make_learner, clock):
    learn = make_learner(callbacks=[Timer(), ValidateEvery("2 steps"), Work(clock, [1] * 3)])
    history = learn.fit(1)
    assert history["train_seconds"] == [5]
    assert [row["valid_seconds"] for row in history.validations] == [2, 2]


def test_the_time_before_an_interruption_counts(make_learner, clock, tmp_path):
    def make(fail_at):
        callbacks = [Timer(), Checkpoint(tmp_path, "1 step"), Work(clock, [5, 6, 7], fail_at)]
        return make_learner(callbacks=callbacks)

    with pytest.raises(ZeroDivisionError):
        make(2).fit(1)
    clock.now += 1000
    assert make(None).fit(1, resume="auto")["train_seconds"] == [18]


def test_an_update_that_many_batches_make_is_one_step(make_learner, clock):
    class Accumulate(Callback):
        order = Checkpoint.order.GRADIENT

        def before_step(self, learn):
            from callbacks import CancelStep

            if learn.batch_idx % 2 == 0:
                raise CancelStep

    class Second(Callback):
        def before_batch(self, learn):
            clock.now += 1

    history = make_learner(n_batches=6, callbacks=[Timer(), Accumulate(), Second()]).fit(1)
    assert history["step_seconds"] == [2]
