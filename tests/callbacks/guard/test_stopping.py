"""EarlyStopping, and the Best that it holds."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import Callback, CancelFit, LearnerWarning, Metrics, Order, Recorder, ZeroGrad
from callbacks.guard.stopping import EarlyStopping
from callbacks.results.best import Best
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


class Says(Callback):
    """Write given numbers to the results, one per epoch; None for an epoch without a result."""

    order = Order.MEASURE

    def __init__(self, values, result="valid_loss", better="min"):
        super().__init__()
        self.values, self.result = values, result
        self.measures = {result: better}

    def after_epoch(self, learn):
        value = self.values[learn.epoch]
        if value is not None:
            learn.results[self.result] = value


class CountedWeights(Callback):
    """Make the weight and a buffer show after which epoch they were made."""

    def after_train(self, learn):
        with torch.no_grad():
            learn.model.weight.fill_(learn.epoch)
            learn.model.seen.fill_(learn.epoch)


def make(*callbacks, valid=None, metrics=(), defaults=()):
    model = nn.Linear(1, 1)
    model.register_buffer("seen", torch.tensor(-1.0))
    sgd = partial(torch.optim.SGD, lr=1e-3)
    return Learner(
        model, ([BATCH], valid), mse_loss, sgd, [ZeroGrad(), *callbacks], metrics=metrics, defaults=defaults
    )


def epochs_run(values, n_epochs=None, result="valid_loss", better="min", **settings):
    """How many epochs a fit runs that measures these values."""
    stopping = EarlyStopping(result, **settings)
    learn = make(Says(values, result, better), CountedWeights(), stopping)
    learn.fit(n_epochs or len(values))
    return learn.epoch + 1, learn


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
    learn.fit(9)  # training brings the preds nearer, so `hits` falls from the second epoch on
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


def test_an_epoch_without_the_result_does_not_count():
    assert epochs_run([1, None, None, 2, None, 2, 0], patience=2)[0] == 6


def test_the_reason_shows_numbers_and_epochs():
    _, learn = epochs_run([5, 0.125, 2, 3.5, 9], patience=2)
    assert learn.stop_reason == (
        "valid_loss has not been better for 2 epochs, now 3.5; the best was 0.125 in epoch 1, "
        "whose weights are restored"
    )


def test_the_reason_is_in_the_history():
    learn = make(Recorder(), Says([1, 2, 3]), EarlyStopping(patience=1))
    learn.fit(3)
    assert learn.history.stops == [(1, learn.stop_reason)]


def test_a_fit_that_comes_to_its_end_is_not_called_stopped():
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


def test_an_unknown_monitor_is_refused_before_the_first_epoch_with_a_suggestion():
    learn = make(EarlyStopping("val_loss"), valid=[BATCH], defaults=[Metrics])
    with pytest.raises(
        ValueError, match=r"Did you mean 'valid_loss'\? There are: .*train_loss, valid_loss\."
    ):
        learn.fit(1)
    assert learn.global_step == 0


def test_without_validation_data_the_message_names_the_training_loss():
    learn = make(EarlyStopping(), defaults=[Metrics])
    with pytest.raises(ValueError, match=r"there is no validation data.*monitor='train_loss'"):
        learn.fit(1)


def test_where_nothing_is_measured_the_message_names_the_callback_that_measures():
    with pytest.raises(ValueError, match=r"nothing is measured\. Add .*Metrics"):
        make(EarlyStopping()).fit(1)


def test_where_the_better_way_is_not_known_mode_is_needed():
    with pytest.raises(ValueError, match=r"EarlyStopping\(\.\.\., mode='min'\) or mode='max'"):
        epochs_run([1], result="valid_odd", better=None)
    assert epochs_run([1, 2, 1, 3, 2], result="valid_odd", better=None, mode="max", patience=2)[0] == 5


def test_a_mode_that_contradicts_the_metric_raises_a_warning():
    with pytest.warns(LearnerWarning, match="the better way of valid_accuracy is 'max'"):
        epochs_run([1], result="valid_accuracy", better="max", mode="min")


def test_a_result_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match=r"the result is \[1, 2\], but only a number can be compared"):
        epochs_run([[1, 2]])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience=0"),
        ({"patience": 2.5}, ValueError, r"patience=2\.5"),
        ({"patience": True}, ValueError, "patience=True"),
        ({"min_delta": -0.1}, ValueError, r"min_delta=-0\.1"),
        ({"min_delta": math.nan}, ValueError, "min_delta=nan"),
        ({"min_delta": "0.1"}, ValueError, "min_delta='0.1'"),
        ({"mode": "auto"}, ValueError, "mode='auto'"),
        ({"monitor": None}, TypeError, "monitor=None"),
    ],
)
def test_impossible_settings_are_refused_when_the_callback_is_made(settings, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**settings)


def test_two_may_watch_two_results():
    learn = make(
        Says([1, 2, 3]),
        EarlyStopping(patience=9),
        EarlyStopping(patience=1, restore_best=False, name="impatient"),
    )
    learn.fit(3)
    assert learn.epoch == 1


def test_cleanup_without_a_fit_and_twice_does_no_harm():
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


# Thresholds -----------------------------------------------------------------------------------------------


def test_it_stops_as_soon_as_a_value_is_reached():
    n_run, learn = epochs_run([5, 4, 1, 3, 2], stopping_threshold=1)
    assert n_run == 3
    assert learn.stop_reason == "valid_loss has reached 1: it is 1"
    assert epochs_run([0.1, 0.5, 0.9], result="valid_accuracy", better="max", stopping_threshold=0.5)[0] == 2


def test_the_weights_that_reached_the_value_stay_though_they_are_better_by_little():
    n_run, learn = epochs_run([5, 1.05, 1.0, 1, 1], stopping_threshold=1, min_delta=0.1)
    assert n_run == 3
    assert learn.model.weight.item() == 2
    assert learn.callbacks[EarlyStopping].best == 1.0


@pytest.mark.parametrize("bad", [10, 11.0, math.inf, math.nan])
def test_it_stops_as_soon_as_a_value_diverges_and_has_the_best_weights(bad):
    n_run, learn = epochs_run([5, 4, bad, 3, 2], divergence_threshold=10)
    assert n_run == 3
    assert "valid_loss diverges: it is " in learn.stop_reason
    assert learn.model.weight.item() == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True])
def test_a_threshold_that_is_not_a_number_is_refused(value):
    with pytest.raises(ValueError, match=r"divergence_threshold=.*write a finite number"):
        EarlyStopping(divergence_threshold=value)
    with pytest.raises(ValueError, match=r"stopping_threshold=.*write a finite number"):
        EarlyStopping(stopping_threshold=value)


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="Swap them"):
        epochs_run([1, 1], stopping_threshold=2, divergence_threshold=1)
    with pytest.raises(ValueError, match="Swap them"):
        epochs_run([1, 1], better="max", stopping_threshold=1, divergence_threshold=2)
