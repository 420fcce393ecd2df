"""`cleanup_fit` is called once for each fit that a callback has started, and at no other time."""

from __future__ import annotations

import pytest
import torch

from callbacks import Callback, CancelFit, DevicePlacement, MCDropout, Order


class Log(Callback):
    """A callback that logs start and cleanup; the cleanup needs what the start has created."""

    order = Order.REPORT

    def __init__(self, name: str = "log"):
        super().__init__(name=name)
        self.seen: list[str] = []

    def before_fit(self, learn):
        self.open = True
        self.seen.append("begin")

    def cleanup_fit(self, learn):
        assert self.open
        self.open = False
        self.seen.append("end")


class NoHook(Callback):
    """A callback with `cleanup_fit` but without `before_fit`."""

    def __init__(self, order: Order):
        self.order, self.seen = order, []

    def cleanup_fit(self, learn):
        self.seen.append("end")


def test_predict_and_validate_do_not_call_cleanup_fit(make_learner):
    log = Log()
    learn = make_learner(callbacks=[log])
    learn.predict(torch.ones(2, 1))
    learn.validate()
    learn.get_preds()
    with pytest.raises(RuntimeError):
        learn.predict(torch.ones(2, 7))
    assert log.seen == []
    learn.fit(1)
    learn.predict(torch.ones(2, 1))
    assert log.seen == ["begin", "end"]


def test_predict_and_a_refused_fit_leave_existing_gradients(make_learner):
    learn = make_learner()
    learn.model(torch.ones(1, 1)).sum().backward()
    kept = learn.model.weight.grad.clone()
    with pytest.raises(RuntimeError):
        learn.predict(torch.ones(2, 7))
    learn.predict(torch.ones(2, 1))
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"):
        learn.fit(1)
    assert torch.equal(learn.model.weight.grad, kept)


def test_after_a_failed_fit_an_error_in_the_cleanup_of_a_later_fit_is_raised(make_learner):
    class Untidy(Callback):
        fails = True

        def before_train(self, learn):
            if self.fails:
                raise ValueError("in the fit")

        def cleanup_fit(self, learn):
            if not self.fails:
                raise OSError("in the cleanup")

    learn = make_learner(callbacks=[Untidy()])
    with pytest.raises(ValueError, match="in the fit"):
        learn.fit(1)
    learn.callbacks.untidy.fails = False
    learn.predict(torch.ones(1, 1))
    with pytest.raises(OSError, match="in the cleanup"):
        learn.fit(1)


@pytest.mark.parametrize("kind", [ValueError, CancelFit, KeyboardInterrupt])
def test_a_callback_that_a_fit_has_not_reached_is_not_cleaned_up(make_learner, kind):
    class Fail(Callback):
        def before_fit(self, learn):
            raise kind

    before, after = Log("before"), Log("after")
    before.order, after.order = Order.PREPARE, Order.SAVE
    plain_before, plain_after = NoHook(Order.PREPARE), NoHook(Order.SAVE)
    plain_before.name = "plain_before"
    learn = make_learner(callbacks=[before, after, plain_before, plain_after, Fail()])
    if kind is CancelFit:
        learn.fit(1)
    else:
        with pytest.raises(kind):
            learn.fit(1)
    assert (before.seen, after.seen) == (["begin", "end"], [])
    assert (plain_before.seen, plain_after.seen) == (["end"], [])


def test_a_fit_that_is_refused_before_it_starts_does_not_call_cleanup_fit(make_learner):
    log = Log()
    learn = make_learner(callbacks=[log], lr=-0.0)
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"):
        learn.fit(1)
    assert log.seen == []


def test_a_callback_removed_during_a_fit_is_cleaned_up_once(make_learner):
    log = Log()

    class Remove(Callback):
        def after_batch(self, learn):
            if learn.global_step == 1 and log in learn.callbacks:
                learn.remove_callbacks(log)
                assert log.seen == ["begin", "end"]

    make_learner(callbacks=[log, Remove()]).fit(2)
    assert log.seen == ["begin", "end"]


def test_a_callback_added_during_a_fit_is_cleaned_up_in_its_order(make_learner):
    order = []

    class Late(Log):
        def cleanup_fit(self, learn):
            order.append(self.name)

    first, late = Late("first"), Late("late")
    first.order, late.order = Order.SAVE, Order.PREPARE

    class Add(Callback):
        def after_batch(self, learn):
            if late not in learn.callbacks:
                learn.add_callbacks(late)

    learn = make_learner(callbacks=[first, Add()])
    learn.fit(1)
    assert order == ["first", "late"]
    assert late.seen == ["begin"]


def test_a_callback_that_another_removes_or_adds_in_before_fit_starts_once_or_never(make_learner):
    gone, new = Log("gone"), Log("new")

    class Change(Callback):
        order = Order.PREPARE

        def before_fit(self, learn):
            learn.remove_callbacks(gone)
            learn.add_callbacks(new)

    learn = make_learner(callbacks=[Change(), gone])
    learn.fit(1)
    assert gone.seen == []
    assert new.seen == ["begin", "end"]


def test_a_callback_may_remove_itself_while_it_cleans_up(make_learner):
    class Once(Log):
        def cleanup_fit(self, learn):
            super().cleanup_fit(learn)
            learn.remove_callbacks(self)

    once = Once()
    learn = make_learner(callbacks=[once])
    learn.fit(1)
    learn.fit(1)
    assert once.seen == ["begin", "end"]


def test_without_during_a_fit_ends_and_starts_the_callback(make_learner):
    log = Log()

    class Aside(Callback):
        def after_epoch(self, learn):
            with learn.without(log):
                assert log.seen == ["begin", "end"]

    make_learner(callbacks=[log, Aside()]).fit(1)
    assert log.seen == ["begin", "end", "begin", "end"]


def test_check_cleans_up_only_callbacks_that_have_started(make_learner):
    class Refuse(Callback):
        order = Order.PREPARE

        def before_fit(self, learn):
            raise ValueError("not this")

    log = Log()
    log.order = Order.GRADIENT
    learn = make_learner(callbacks=[log, Refuse()])
    report = learn.check()
    assert log.seen == ["begin", "end"]
    assert any("not this" in str(error) for error in report.errors)


def test_a_model_that_was_moved_between_two_predictions_is_placed_again(make_learner):
    learn = make_learner(callbacks=[DevicePlacement("cpu")])
    learn.predict(torch.ones(2, 1))
    learn.model.to("meta")
    learn.model.to_empty(device="cpu")
    assert learn.predict(torch.ones(2, 1)).device.type == "cpu"


def test_a_failed_validation_does_not_change_how_dropout_predicts(make_learner):
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    learn = make_learner(model=model, callbacks=[MCDropout(n=4)])
    with pytest.raises(RuntimeError):
        learn.validate([(torch.ones(2, 7), torch.ones(2, 1))])
    learn.predict(torch.ones(2, 1))
    assert learn.callbacks.mc_dropout.spread.shape == (2, 1)


def test_a_callback_that_never_starts_because_of_an_early_cancel_is_not_cleaned_up(make_learner):
    class Early(Callback):
        order = Order.PREPARE

        def before_fit(self, learn):
            raise CancelFit

    class Counts(Callback):
        def before_fit(self, learn):
            self.n = 0

        def after_fit(self, learn):
            self.n += 1

    class OnlyEnds(Callback):
        ended = 0

        def after_fit(self, learn):
            self.ended += 1

    learn = make_learner(callbacks=[Counts(), OnlyEnds()])
    learn.fit(1, callbacks=[Early()])
    assert learn.callbacks[OnlyEnds].ended == 1
    learn.fit(1)
    assert learn.callbacks[OnlyEnds].ended == 2
    assert learn.callbacks[Counts].n == 1
