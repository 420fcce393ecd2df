"""The golden order of events, for two epochs and for every way to end a fit."""

from __future__ import annotations

import re

import pytest
from tiny import line_batches

from callbacks import (
    EVENTS,
    OPERATIONS,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    MixedPrecision,
    Order,
)
from learner import Data
from learner.engine.explain import LOOP

TRAIN_BATCH = [
    *("before_batch", "after_pred", "after_loss", "before_backward", "after_backward"),
    *("before_step", "after_step", "after_batch"),
]
VALID_BATCH = ["before_batch", "after_pred", "after_loss", "after_batch"]
TRAIN = ["before_train", *TRAIN_BATCH, *TRAIN_BATCH, "after_train"]
VALIDATE = ["before_validate", *VALID_BATCH, "after_validate"]
EPOCH = ["before_epoch", *TRAIN, *VALIDATE, "after_epoch"]


class Trace(Callback):
    """A callback that logs every event, and calls a function at one of them."""

    order = Order.SAVE

    def __init__(self, event: str = "", action=None, at: int = 0):
        self.events: list[str] = []
        self.event, self.action, self.at = event, action, at

    def log(self, learn, event: str) -> None:
        self.events.append(event)
        if event == self.event and self.events.count(event) == self.at + 1:
            self.action(learn)


def logging_hook(event: str):
    def hook(self, learn):
        self.log(learn, event)

    return hook


for each in EVENTS:
    setattr(Trace, each, logging_hook(each))


def trace(make_learner, event: str = "", action=None, at: int = 0, n_epochs: int = 2) -> list[str]:
    trace = Trace(event, action, at)
    learn = make_learner(data=Data(line_batches(2), line_batches(1)), callbacks=[trace])
    learn.fit(n_epochs)
    return trace.events


def cancel(kind):
    def action(learn):
        raise kind

    return action


def stop(learn):
    learn.stop("enough")


def test_two_epochs_fire_every_event_in_the_golden_order(make_learner):
    assert trace(make_learner) == ["before_fit", *EPOCH, *EPOCH, "after_fit", "cleanup_fit"]


def test_no_epochs_fire_the_outer_events_only(make_learner):
    assert trace(make_learner, n_epochs=0) == ["before_fit", "after_fit", "cleanup_fit"]


def test_without_validation_data_no_validation_event_fires(make_learner):
    trace = Trace()
    make_learner(n_batches=2, valid=False, callbacks=[trace]).fit(1)
    assert trace.events == ["before_fit", "before_epoch", *TRAIN, "after_epoch", "after_fit", "cleanup_fit"]


def test_a_stop_in_a_batch_lets_the_batch_finish_and_ends_the_outer_spans(make_learner):
    events = trace(make_learner, "before_batch", stop)
    begun = ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH]
    assert events == [*begun, "after_train", "after_epoch", "after_fit", "cleanup_fit"]


def test_a_stop_after_an_epoch_starts_no_further_epoch(make_learner):
    assert trace(make_learner, "after_epoch", stop) == ["before_fit", *EPOCH, "after_fit", "cleanup_fit"]


def test_a_stop_before_the_fit_starts_no_epoch(make_learner):
    assert trace(make_learner, "before_fit", stop) == ["before_fit", "after_fit", "cleanup_fit"]


def test_a_stop_before_an_epoch_starts_no_pass(make_learner):
    events = trace(make_learner, "before_epoch", stop)
    assert events == ["before_fit", "before_epoch", "after_epoch", "after_fit", "cleanup_fit"]


def test_a_stop_in_validation_ends_it_after_the_batch(make_learner):
    events = trace(make_learner, "before_validate", stop)
    closing = ["before_validate", "after_validate", "after_epoch", "after_fit", "cleanup_fit"]
    assert events == ["before_fit", "before_epoch", *TRAIN, *closing]


def test_every_callback_of_the_event_runs_when_one_stops_the_fit(make_learner):
    later = Trace()
    later.name = "later"
    learn = make_learner(callbacks=[Trace("after_batch", stop), later])
    learn.fit(2)
    assert later.events.count("after_batch") == 1
    assert learn.stop_reason == "enough"


@pytest.mark.parametrize(
    ("kind", "event", "expected"),
    [
        (
            CancelFit,
            "after_loss",
            ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH[:3], "after_fit"],
        ),
        (
            CancelEpoch,
            "after_loss",
            [
                "before_fit",
                "before_epoch",
                "before_train",
                *TRAIN_BATCH[:3],
                "after_epoch",
                *EPOCH,
                "after_fit",
            ],
        ),
        (
            CancelTrain,
            "after_loss",
            [
                *("before_fit", "before_epoch", "before_train", *TRAIN_BATCH[:3], "after_train"),
                *(*VALIDATE, "after_epoch", *EPOCH, "after_fit"),
            ],
        ),
        (
            CancelValidate,
            "before_validate",
            [
                *("before_fit", "before_epoch", *TRAIN, "before_validate", "after_validate"),
                *("after_epoch", *EPOCH, "after_fit"),
            ],
        ),
        (
            CancelBatch,
            "after_loss",
            [
                *("before_fit", "before_epoch", "before_train", *TRAIN_BATCH[:3]),
                *(*TRAIN_BATCH, "after_train", *VALIDATE, "after_epoch", *EPOCH, "after_fit"),
            ],
        ),
        (
            CancelStep,
            "before_step",
            [
                *("before_fit", "before_epoch", "before_train", *TRAIN_BATCH[:6], "after_batch"),
                *(*TRAIN_BATCH, "after_train", *VALIDATE, "after_epoch", *EPOCH, "after_fit"),
            ],
        ),
        (CancelFit, "before_fit", ["before_fit", "after_fit"]),
    ],
)
def test_a_cancel_ends_its_span_and_no_other(make_learner, kind, event, expected):
    assert trace(make_learner, event, cancel(kind)) == [*expected, "cleanup_fit"]


def test_an_error_fires_cleanup_and_nothing_else(make_learner):
    trace = Trace("after_loss", cancel(ZeroDivisionError))
    learn = make_learner(callbacks=[trace])
    with pytest.raises(ZeroDivisionError):
        learn.fit(2)
    assert trace.events == ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH[:3], "cleanup_fit"]
    assert isinstance(learn.error, ZeroDivisionError)


def test_cleanup_fires_in_reverse_order(make_learner):
    order: list[str] = []

    class First(Callback):
        def cleanup_fit(self, learn):
            order.append("first")

    class Second(Callback):
        def cleanup_fit(self, learn):
            order.append("second")

    make_learner(callbacks=[First(), Second()]).fit(0)
    assert order == ["second", "first"]


def test_phases_order_callbacks_and_ties_keep_the_given_order(make_learner):
    order: list[str] = []

    def callback(title: str, phase: Order) -> Callback:
        def before_fit(self, learn):
            order.append(title)

        return type(title, (Callback,), {"order": phase, "before_fit": before_fit})()

    given = [("C", Order.SAVE), ("A", Order.MEASURE), ("B", Order.MEASURE), ("Z", Order.PREPARE)]
    make_learner(callbacks=[callback(*each) for each in given]).fit(0)
    assert order == ["Z", "A", "B", "C"]


def test_explain_lists_the_events_and_operations_as_a_fit_fires_them(make_learner):
    trace = Trace()
    make_learner(callbacks=[trace]).fit(1)
    listed = [line.strip() for line in LOOP.splitlines()]
    events = [word for word in listed if not word.startswith("[")]
    one_batch_each = ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH, "after_train", *VALIDATE]
    assert events == [*one_batch_each, "after_epoch", "after_fit", "cleanup_fit"]
    assert list(dict.fromkeys(trace.events)) == list(dict.fromkeys(events))
    assert {word.strip("[]") for word in listed if word.startswith("[")} == set(OPERATIONS)


def test_explain_shows_what_an_operation_runs_within(make_learner, capsys):
    make_learner(callbacks=[MixedPrecision()]).explain()
    shown = capsys.readouterr().out
    assert re.search(r"\[forward\] +Learner, within MixedPrecision", shown)
    assert re.search(r"\[step\] +Learner\n", shown)


def test_explain_names_the_callbacks_of_each_operation_and_event_with_their_phase(make_learner, capsys):
    make_learner(callbacks=[Trace()]).explain()
    printed = capsys.readouterr().out
    assert "[zero_grad]        ZeroGrad (GRADIENT)" in printed
    assert "[place]            nobody" in printed
    assert "[forward]          Learner" in printed
    assert "after_batch        Metrics (MEASURE), Recorder (REPORT), Trace (SAVE)" in printed
    assert max(map(len, printed.splitlines())) < 100
