"""Functions that become callbacks by `on`."""

from __future__ import annotations

import functools

import pytest
import torch
from ground.defining import generator
from tiny import title_of

from callbacks import Order, on

# on(...)


def test_a_function_becomes_a_callback_with_its_name(make_learner):
    seen = []

    @on("after_epoch", order=Order.REPORT)
    def keep_epoch(learn):
        """Keep the number of the epoch."""
        seen.append(learn.epoch)

    learn = make_learner(callbacks=[keep_epoch])
    learn.fit(2)
    assert seen == [0, 1]
    assert learn.callbacks.keep_epoch is keep_epoch
    assert keep_epoch.order is Order.REPORT
    assert keep_epoch.__doc__ == "Keep the number of the epoch."
    assert type(keep_epoch).__module__ == __name__


def test_the_name_of_a_function_as_a_callback_is_kept_as_given():
    assert on("after_epoch", name="MyRate")(lambda learn: None).name == "MyRate"


class Keeper:
    def __init__(self):
        self.seen = []

    def keep(self, learn):
        self.seen.append(learn.epoch)

    __call__ = keep


@pytest.mark.parametrize(
    "function",
    [
        Keeper.keep,
        lambda keeper, learn: keeper.seen.append(learn.epoch),
        lambda keeper, learn, *rest: keeper(learn),
    ],
    ids=["method", "lambda", "callable"],
)
def test_methods_partials_lambdas_and_callables_become_callbacks(function, make_learner):
    keeper = Keeper()
    for callback in (
        on("after_epoch")(functools.partial(function, keeper)),
        on("after_epoch", name="bound")(keeper.keep),
    ):
        keeper.seen.clear()
        learn = make_learner(callbacks=[callback])
        learn.fit(2)
        assert keeper.seen == [0, 1]
    on("after_epoch")(keeper)
    assert on("after_epoch")(lambda learn: None).name == "after_epoch"


def test_a_function_can_implement_an_operation(make_learner):
    @on("step")
    def stand_still(learn):
        pass

    learn = make_learner(callbacks=[stand_still])
    before = learn.model.weight.clone()
    learn.fit(1)
    assert torch.equal(before, learn.model.weight)


@pytest.mark.parametrize("event", ["after_bacth", "on_epoch_end", "epoch", "", None, 3])
def test_on_refuses_an_unknown_event(event):
    with pytest.raises(TypeError, match=r"on\(.*\): there is no such event. Did you mean '.*The events are"):
        on(event)


def test_on_without_the_event_is_refused():
    with pytest.raises(TypeError, match='on needs the event: write @on\\("after_batch"\\)'):

        @on
        def show(learn):
            pass


@pytest.mark.parametrize("function", [lambda: 0, lambda one, two: 0, 3, Keeper, generator], ids=title_of)
def test_on_refuses_what_cannot_take_the_learner(function):
    with pytest.raises(TypeError, match=r"on\.after_batch.*def after_batch\(learn\)"):
        on("after_batch")(function)
