"""EarlyStopping with thresholds and with settings that are refused."""

import math

import pytest
from ground.scripted_results import BATCH, Says, epochs_run, make

from callbacks import LearnerWarning, Metrics
from callbacks.guard.stopping import EarlyStopping


def test_an_unknown_monitor_is_refused_before_the_first_epoch_with_a_suggestion():
    learn = make(EarlyStopping("val_loss"), valid=[BATCH], defaults=[Metrics])
    with pytest.raises(
        ValueError, match=r"Did you mean 'valid_loss'\? Available: .*train_loss, valid_loss\."
    ):
        learn.fit(1)
    assert learn.global_step == 0


@pytest.mark.parametrize("monitor", ["valid_loss", "val_loss", "validation_loss"])
def test_without_validation_data_the_message_names_the_training_loss(monitor):
    learn = make(EarlyStopping(monitor), defaults=[Metrics])
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
    with pytest.warns(LearnerWarning, match="the better direction of valid_accuracy is 'max'"):
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


def test_two_callbacks_may_monitor_two_results():
    learn = make(
        Says([1, 2, 3]),
        EarlyStopping(patience=9),
        EarlyStopping(patience=1, restore_best=False, name="impatient"),
    )
    learn.fit(3)
    assert learn.epoch == 1


# Thresholds -----------------------------------------------------------------------------------------------


def test_it_stops_as_soon_as_a_value_is_reached():
    n_run, learn = epochs_run([5, 4, 1, 3, 2], stopping_threshold=1)
    assert n_run == 3
    assert learn.stop_reason == "valid_loss has reached 1: it is 1"
    assert epochs_run([0.1, 0.5, 0.9], result="valid_accuracy", better="max", stopping_threshold=0.5)[0] == 2


def test_the_weights_that_reached_the_value_stay_even_if_they_are_only_slightly_better():
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
    with pytest.raises(ValueError, match=r"divergence_threshold=.*must be a finite number"):
        EarlyStopping(divergence_threshold=value)
    with pytest.raises(ValueError, match=r"stopping_threshold=.*must be a finite number"):
        EarlyStopping(stopping_threshold=value)


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="Swap them"):
        epochs_run([1, 1], stopping_threshold=2, divergence_threshold=1)
    with pytest.raises(ValueError, match="Swap them"):
        epochs_run([1, 1], better="max", stopping_threshold=1, divergence_threshold=2)
