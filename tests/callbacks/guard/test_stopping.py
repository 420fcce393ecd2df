"""EarlyStopping, and the Best that it holds."""

import math

import pytest
from ground.scripted_results import BATCH, CountedWeights, Says, epochs_run, make

from callbacks import Callback, CancelFit, Checkpoint, Metrics, Order, Recorder
from callbacks.guard.stopping import EarlyStopping
from callbacks.results.best import Best


def test_it_stops_after_patience_epochs_without_a_better_value():
    n_run, learn = epochs_run([5, 4, 4.5, 4.2, 4, 1, 1], patience=3)
    assert n_run == 5
    assert (learn.callbacks.early_stopping.best, learn.callbacks.early_stopping.best_epoch) == (4, 1)


def test_a_better_value_restarts_the_wait():
    assert epochs_run([5, 6, 4, 6, 3, 6, 6, 0], patience=2)[0] == 7


def test_equal_is_not_better():
    assert epochs_run([1, 1, 1, 1], patience=2)[0] == 3


def test_less_than_min_delta_is_not_better_and_small_gains_add_up():
    assert epochs_run([1, 0.9, 0.8, 0.7], patience=2, min_delta=0.5)[0] == 3
    assert epochs_run([1, 0.7, 0.4, 0.1, -0.2, -0.5], patience=2, min_delta=0.5)[0] == 6


def test_a_larger_accuracy_is_better_by_default():
    values = [0.1, 0.5, 0.9, 0.8, 0.8, 1]
    n_run, learn = epochs_run(values, result="valid_accuracy", better="max", patience=2)
    assert n_run == 5
    assert learn.callbacks.early_stopping.best == 0.9


def test_the_direction_comes_from_the_metric_itself():
    def hits(preds, targets):
        return (preds - targets).abs().mean()

    hits.higher_is_better = True
    learn = make(
        EarlyStopping("valid_hits", patience=1), valid=[BATCH], metrics=[hits], defaults=[Metrics, Recorder]
    )
    learn.fit(9)  # training improves the preds, so `hits` falls from the second epoch on
    assert len(learn.history) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_better(bad):
    n_run, learn = epochs_run([bad, 2, bad, 1, bad, bad, 0], patience=2)
    assert n_run == 6
    assert learn.callbacks.early_stopping.best == 1


def test_a_fit_of_nan_only_is_stopped_with_that_reason():
    n_run, learn = epochs_run([math.nan] * 5, patience=2)
    assert n_run == 2
    assert learn.stop_reason == "valid_loss has not been a finite number for 2 epochs"
    assert learn.model.weight.item() == 1, "there is nothing to restore"


def test_an_epoch_without_the_result_does_not_change_patience():
    assert epochs_run([1, None, None, 2, None, 2, 0], patience=2)[0] == 6


def test_the_reason_shows_numbers_and_epochs():
    _, learn = epochs_run([5, 0.125, 2, 3.5, 9], patience=2)
    assert learn.stop_reason == (
        "valid_loss has not improved for 2 epochs, now 3.5; the best was 0.125 in epoch 1, "
        "whose weights are restored"
    )


def test_the_reason_is_in_the_history():
    learn = make(Recorder(), Says([1, 2, 3]), EarlyStopping(patience=1))
    learn.fit(3)
    assert learn.history.stops == [(1, learn.stop_reason)]


def test_a_fit_that_reaches_its_end_is_not_reported_as_stopped():
    n_run, learn = epochs_run([1, 2, 3], patience=2)
    assert (n_run, learn.stop_reason) == (3, None)


def test_the_best_weights_and_buffers_are_restored_after_a_stop():
    _, learn = epochs_run([5, 4, 6, 6, 0], patience=2)
    assert (learn.model.weight.item(), learn.model.seen.item()) == (1, 1)


@pytest.mark.parametrize("values", [[5, 4, 6], [5, 4, None]])
def test_the_best_weights_are_restored_also_when_the_fit_ends_by_itself(values):
    _, learn = epochs_run(values)
    assert learn.model.weight.item() == 1


def test_the_last_weights_stay_when_they_are_the_best_or_when_asked_to():
    assert epochs_run([5, 4, 3])[1].model.weight.item() == 2
    assert epochs_run([5, 4, 6], restore_best=False)[1].model.weight.item() == 2


def test_a_callback_that_saves_after_the_fit_saves_the_best_weights():
    saved = []

    class Save(Callback):
        order = Order.SAVE

        def after_fit(self, learn):
            saved.append(learn.model.weight.item())

    make(Save(), Says([1, 2]), CountedWeights(), EarlyStopping()).fit(2)
    assert saved == [0]


def test_after_a_cancelled_fit_the_best_weights_are_restored_but_not_after_an_error():
    class Fail(Callback):
        error: Exception = CancelFit()

        def before_epoch(self, learn):
            if learn.epoch == 2:
                raise self.error

    learn = make(Says([1, 2, 3]), CountedWeights(), Fail(), EarlyStopping())
    learn.fit(3)
    assert learn.model.weight.item() == 0
    learn.callbacks[Fail].error = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        learn.fit(3)
    assert learn.model.weight.item() == 1


def test_each_fit_starts_from_scratch():
    learn = make(Says([1, 2, 3, 4]), CountedWeights(), EarlyStopping(patience=2))
    learn.fit(4)
    assert learn.epoch == 2
    learn.callbacks[Says].values = [9, 8, 7, 6]
    learn.fit(4)
    assert learn.epoch == 3
    assert learn.callbacks.early_stopping.best == 6
    assert learn.model.weight.item() == 3


def test_a_snapshot_in_the_middle_keeps_best_wait_and_weights():
    class Snap(Callback):
        order = Order.SAVE

        def after_epoch(self, learn):
            self.taken = learn.snapshot()
            if learn.epoch == 2:
                learn.stop("enough")

    snap, stopping = Snap(), EarlyStopping(patience=9)
    learn = make(Says([5, 1, 2, 3]), CountedWeights(), stopping, snap)
    learn.fit(4)
    stopping.before_fit(learn)
    assert (stopping.best, stopping.wait) == (None, 0)
    learn.restore(snap.taken)
    assert (stopping.best, stopping.best_epoch, stopping.wait) == (1, 1, 1)
    assert stopping.best_weights["weight"].item() == 1


def test_the_copy_of_the_weights_is_released_after_the_fit_and_the_numbers_stay():
    _, learn = epochs_run([5, 4, 6])
    stopping = learn.callbacks.early_stopping
    assert (stopping.best_weights, stopping.best) == (None, 4)


def test_cleanup_works_without_a_fit_and_twice():
    callback = EarlyStopping()
    learn = make(callback)
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)


def test_best_returns_better_worse_and_nothing():
    best = Best("valid_loss", owner="Mine")
    learn = make(Says([3, None, 4, 2]))
    best.begin(learn)
    returned = []
    for learn.epoch in range(4):
        learn.results = {}
        learn.callbacks[Says].after_epoch(learn)
        returned.append(best.update(learn))
    assert returned == [True, None, False, True]
    assert (best.value, best.epoch) == (2, 3)


def test_a_metric_without_a_direction_is_refused_with_the_argument_that_names_it(make_learner, tmp_path):
    def mine(preds, targets):
        return (preds - targets).abs().mean()

    saving = Checkpoint(tmp_path, best="valid_mine")
    for callback, place in (
        (saving, "Checkpoint(best='valid_mine')"),
        (EarlyStopping("valid_mine"), "(monitor="),
    ):
        learn = make_learner(callbacks=[callback], metrics=[mine])
        with pytest.raises(ValueError, match="not known which direction is better") as caught:
            learn.fit(1)
        assert place in str(caught.value)
        assert "my_metric.higher_is_better = False" in str(caught.value)
    mine.higher_is_better = False
    make_learner(callbacks=[Checkpoint(tmp_path / "run", best="valid_mine")], metrics=[mine]).fit(1)
