"""When, which limits the events of a callback, and `learn.without`."""

from __future__ import annotations

import pytest
import torch
from tiny import line_batches

from callbacks import (
    EVENTS,
    SAM,
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientClip,
    Order,
    Recorder,
    ShortEpoch,
    ValidateEvery,
    When,
    ZeroGrad,
    on,
)
from learner import Learner


def record(event):
    def hook(self, learn):
        self.log.append((event, learn.epoch, learn.global_step))

    return hook


class Calls(Callback):
    """A callback that records each event for which it is called."""

    state = ("log",)

    def __init__(self):
        super().__init__()
        self.log = []

    locals().update({event: record(event) for event in EVENTS})

    def epochs(self, event):
        return [epoch for name, epoch, _ in self.log if name == event]

    def steps(self, event):
        return [step for name, _, step in self.log if name == event]


def calls_of(make_learner, n_epochs=4, **window) -> Calls:
    calls = Calls()
    make_learner(callbacks=[When(calls, **window)]).fit(n_epochs)
    return calls


def test_it_is_called_for_whole_epochs_between_start_and_until(make_learner):
    calls = calls_of(make_learner, start="1 epoch", until="3 epochs")
    for event in ("before_epoch", "before_train", "after_train", "before_validate", "after_epoch"):
        assert calls.epochs(event) == [1, 2]
    assert calls.steps("after_step") == [4, 5, 6, 7, 8, 9]
    assert [name for name, *_ in calls.log if name.endswith("_fit")] == [
        "before_fit",
        "after_fit",
        "cleanup_fit",
    ]


def test_it_is_called_in_every_second_epoch(make_learner):
    calls = calls_of(make_learner, every="2 epochs")
    assert calls.epochs("after_epoch") == [1, 3]
    assert len(calls.epochs("after_batch")) == 10  # three of training and two of validation in each


def test_it_is_called_for_the_batches_that_make_every_fourth_step(make_learner):
    calls = calls_of(make_learner, every="4 steps")
    assert calls.steps("after_step") == [4, 8, 12]
    assert calls.steps("before_batch") == [3, 7, 11]
    assert calls.steps("after_batch") == [4, 8, 12]  # and none in validation
    assert calls.epochs("after_epoch") == [0, 1, 2, 3]


def test_it_is_called_for_the_batches_that_have_every_tenth_sample(make_learner):
    calls = calls_of(make_learner, every="10 samples")
    assert calls.steps("after_step") == [3, 5, 8, 10]  # 4 samples per step


def test_the_start_of_a_pass_fires_when_the_window_opens_in_its_middle(make_learner):
    calls = calls_of(make_learner, start="4 steps", until="7 steps")
    names = [name for name, *_ in calls.log if name.startswith(("before_", "after_"))]
    assert names[:4] == ["before_fit", "before_epoch", "before_train", "before_batch"]
    assert calls.steps("after_step") == [5, 6, 7]
    assert calls.epochs("before_train") == calls.epochs("after_train") == [1, 2]
    assert calls.epochs("before_epoch") == calls.epochs("after_epoch") == [1, 2]


def test_a_callback_whose_window_never_opens_is_never_called(make_learner):
    assert [name for name, *_ in calls_of(make_learner, start="99 epochs").log] == [
        "before_fit",
        "after_fit",
        "cleanup_fit",
    ]


def test_a_validation_in_mid_epoch_leaves_the_spans_as_they_are(make_learner):
    calls = Calls()
    learn = make_learner(callbacks=[ValidateEvery("1 step"), When(calls, start="1 step")])
    learn.fit(1)
    assert len(calls.epochs("before_train")) == len(calls.epochs("after_train")) == 1


@pytest.mark.parametrize("at", range(1, 15))
@pytest.mark.parametrize("window", [{"start": "4 steps", "until": "7 steps"}, {"every": "2 steps"}])
def test_an_interrupted_fit_calls_it_for_the_same_events(make_learner, tmp_path, at, window):
    def make(*saves):
        calls = Calls()
        return make_learner(callbacks=[When(calls, **window), *saves]), calls

    @on("after_batch", order=Order.SAVE)
    def end(learn):
        counts.append(learn.global_step)
        if len(counts) == at:
            raise ZeroDivisionError

    counts = []
    learn, whole = make()
    learn.fit(3)
    learn, _ = make(Checkpoint(tmp_path, "1 step"))
    with pytest.raises(ZeroDivisionError):
        learn.fit(3, callbacks=[end])
    learn, calls = make(Checkpoint(tmp_path, "1 step"))
    learn.fit(3, resume="auto")
    assert [each for each in calls.log if "batch" in each[0]] == [
        each for each in whole.log if "batch" in each[0]
    ]
    assert calls.epochs("after_train") == whole.epochs("after_train")
    assert calls.epochs("after_epoch") == whole.epochs("after_epoch")
    assert learn.callbacks[When].spans == []


def test_it_has_name_phase_results_and_state_of_the_callback(make_learner):
    stopping = EarlyStopping("train_loss", patience=1, min_delta=9)
    when = When(stopping, start="2 epochs")
    assert (when.name, when.order) == ("early_stopping", Order.DECIDE)
    learn = make_learner(callbacks=[when])
    learn.fit(9)
    assert len(learn.history) == 4  # from the third epoch on it has one better, then one that is not
    assert when.inner == stopping.state_dict()
    assert repr(when) == f"When({stopping!r}, start='2 epochs')"


def test_a_default_is_replaced_by_a_callback_of_its_class(make_learner):
    learn = make_learner(defaults=(ZeroGrad, Recorder), callbacks=[When(Recorder, every="2 epochs")])
    learn.fit(4)
    assert len(learn.history) == 2


def test_a_callback_that_is_passed_again_without_when_has_no_window(make_learner):
    calls = Calls()
    learn = make_learner()
    learn.fit(2, callbacks=[When(calls, start="1 epoch")])
    learn.fit(2, callbacks=[calls])
    assert calls.epochs("after_epoch") == [1, 0, 1]


def test_a_callback_keeps_its_window_when_others_are_added_and_removed(make_learner):
    calls = Calls()
    learn = make_learner(callbacks=[When(calls, start="1 epoch"), ShortEpoch(1)])
    learn.remove_callbacks(ShortEpoch)
    with learn.without(calls), learn.sandbox():
        pass
    learn.fit(2, callbacks=[ShortEpoch(1)])
    assert calls.epochs("after_epoch") == [1]


def test_a_callback_in_a_window_is_the_one_that_its_name_finds(make_learner, capsys):
    calls = Calls()
    learn = make_learner(callbacks=[When(calls, start="1 epoch", name="later")])
    assert learn.callbacks.later is calls
    assert [each for each in learn.callbacks if each is calls]
    learn.explain()
    assert "Calls ('later') (MEASURE, start='1 epoch')" in capsys.readouterr().out


def test_the_gradients_that_sam_computes_again_are_clipped_only_while_the_window_is_open(make_learner):
    class Watched(GradientClip):
        def clip(self, learn):
            steps.append(learn.global_step)
            return super().clip(learn)

    steps: list[int] = []
    make_learner(callbacks=[SAM(), When(Watched(1.0), start="2 steps", until="4 steps")]).fit(2)
    assert steps == [2, 2, 3, 3]


def test_the_former_name_of_its_argument_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="callback="):
        when = When(plugin=EarlyStopping(), start="1 epoch")  # vocabulary: quoted
    assert isinstance(when.callback, EarlyStopping)


def test_nothing_is_called_for_events_that_the_callback_does_not_define():
    when = When(EarlyStopping(), every="1 epoch")
    assert not when.listens_to("after_step")
    assert when.listens_to("after_epoch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "has no effect"),
        ({"every": "3"}, r"every='3'\): every must be a whole number"),
        ({"start": "10 seconds"}, r"start='10 seconds'\): start must be a whole number"),
        ({"until": "1.5 steps"}, "must be a whole number"),
        ({"until": 5}, "must be a whole number"),
        ({"start": "5 steps", "until": "5 steps"}, "the window is empty"),
    ],
)
def test_a_window_that_cannot_be_used_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        When(EarlyStopping(), **settings)


def test_overrides_savers_and_what_is_not_a_callback_are_refused():
    with pytest.raises(ValueError, match="operation 'zero_grad', which must run each time"):
        When(ZeroGrad, start="1 step")
    with pytest.raises(ValueError, match="cannot be limited to a window"):
        When(Checkpoint("run"), start="1 step")
    with pytest.raises(TypeError, match=r"When\(callback\) is 3"):
        When(3, start="1 step")  # type: ignore[arg-type]


def test_a_callback_that_declares_that_it_saves_is_refused():
    class Uploads(Callback):
        saves_checkpoints = True

    with pytest.raises(ValueError, match=r"When\(Uploads\): saving cannot be limited to a window"):
        When(Uploads, start="1 step")


# Without --------------------------------------------------------------------------------------------------


def names(learn: Learner) -> list[str]:
    return [callback.name for callback in learn.callbacks]


def test_a_window_ends_with_the_same_weights_as_a_loop_by_hand(make_learner):
    @on("before_step", name="halve")
    def halve(learn):
        for parameter in learn.model.parameters():
            parameter.grad.mul_(0.5)

    learn = make_learner(callbacks=[When(halve, start="2 steps", until="5 steps")])
    model = torch.nn.Linear(1, 1)
    model.load_state_dict(learn.model.state_dict())
    learn.fit(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(9):
        inputs, targets = line_batches()[step % 3]
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        for parameter in model.parameters():
            parameter.grad.mul_(0.5 if 2 <= step < 5 else 1)  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(learn.model.weight, model.weight)
