"""Callbacks and subclasses in a learner: defaults, replaced operations, added and removed parts."""

from __future__ import annotations

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    Metrics,
    Order,
    ZeroGrad,
    on,
)
from learner import DEFAULT_CALLBACKS, Learner


def weights(learn: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def test_a_callback_may_remove_itself_while_it_runs(make_learner):
    class Once(Callback):
        calls = cleaned = 0

        def after_batch(self, learn):
            self.calls += 1
            learn.remove_callbacks(self)

        def cleanup_fit(self, learn):
            self.cleaned += 1

    once = Once()
    learn = make_learner(callbacks=[once])
    learn.fit(2)
    assert (once.calls, once.cleaned) == (1, 1)
    assert Once not in learn.callbacks


def test_a_callback_added_for_one_fit_is_removed_after_it(make_learner):
    class Probe(Callback):
        pass

    learn = make_learner()
    learn.fit(1, callbacks=[Probe()])
    assert Probe not in learn.callbacks
    with learn.added(Probe()):
        assert Probe in learn.callbacks
    assert Probe not in learn.callbacks


def test_a_callback_added_during_a_fit_starts_at_once_and_is_cleaned_up(make_learner):
    class Late(Callback):
        log: list[str] = []  # noqa: RUF012

        def before_fit(self, learn):
            self.log.append("before_fit")

        def after_batch(self, learn):
            self.log.append("after_batch")

        def cleanup_fit(self, learn):
            self.log.append("cleanup_fit")

    @on("before_epoch")
    def add(learn):
        learn.add_callbacks(Late())

    make_learner(n_batches=1, valid=False, callbacks=[add]).fit(1)
    assert Late.log == ["before_fit", "after_batch", "cleanup_fit"]


def test_the_default_callbacks_are_present_unless_disabled():
    learn = Learner(nn.Linear(1, 1), (line_batches(), None), F.mse_loss)
    assert {type(callback) for callback in learn.callbacks} == set(DEFAULT_CALLBACKS)
    assert len(Learner(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, defaults=()).callbacks) == 0


def test_a_callback_of_the_same_class_replaces_the_default(make_learner):
    mine = Metrics(on="both")
    learn = make_learner(callbacks=[mine])
    assert learn.callbacks[Metrics] is mine


def test_a_callback_that_implements_the_same_operation_replaces_the_default(make_learner):
    class Mine(Callback):
        def zero_grad(self, learn):
            learn.optimizer.zero_grad()

    learn = make_learner(callbacks=[Mine()])
    assert ZeroGrad not in learn.callbacks
    learn.fit(1)


def test_a_callback_can_override_an_operation(make_learner):
    class Still(Callback):
        def step(self, learn):
            pass

    learn = make_learner(callbacks=[Still()])
    before = weights(learn)
    learn.fit(1)
    assert torch.equal(weights(learn), before)


def test_a_subclass_can_override_an_operation():
    class Doubled(Learner):
        def compute_loss(self):
            super().compute_loss()
            self.loss_grad = 2 * self.loss_grad

    def fitted(kind, lr):
        torch.manual_seed(0)
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=lr)  # noqa: E731
        learn = kind(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, optimizer, defaults=(ZeroGrad,))
        learn.fit(2)
        return weights(learn)

    assert torch.equal(fitted(Doubled, 0.125), fitted(Learner, 0.25))


def test_a_callback_and_a_subclass_that_implement_the_same_operation_are_refused():
    class Mine(Learner):
        def step(self):
            pass

    class Still(Callback):
        def step(self, learn):
            pass

    with pytest.raises(ValueError, match=r"Mine\.step and the callback Still both implement step"):
        Mine(nn.Linear(1, 1), (line_batches(), None), F.mse_loss, callbacks=[Still()])


class Logged(Callback):
    """A callback that counts batches, and logs each start and end."""

    state = ("n",)

    def __init__(self, name="logged"):
        super().__init__(name=name)
        self.n, self.seen = 0, []

    def before_fit(self, learn):
        self.n = 0
        self.seen.append("start")

    def after_batch(self, learn):
        self.n += 1

    def cleanup_fit(self, learn):
        self.seen.append("end")


def test_a_callback_removed_or_replaced_in_a_sandbox_returns_to_its_place(make_learner):
    first, second = Logged("first"), Logged("second")
    learn = make_learner(callbacks=[first, second])
    learn.fit(1)
    before, n = list(learn.callbacks), first.n
    with learn.sandbox():
        learn.remove_callbacks(first)
        learn.add_callbacks(Logged("first"))
        learn.fit(1)
    assert all(one is other for one, other in zip(learn.callbacks, before, strict=True))
    assert (first.n, second.n) == (n, n)
    learn.fit(1)
    assert first.seen == ["start", "end"] * 2


def test_a_callback_removed_in_a_sandbox_during_a_fit_starts_again_with_its_state(make_learner):
    logged = Logged()

    class Aside(Callback):
        order = Order.SAVE

        def after_batch(self, learn):
            if learn.global_step == 2 and learn.training:
                with learn.sandbox():
                    learn.remove_callbacks(logged)
                    learn.add_callbacks(other := Logged("other"))
                assert (logged.n, other.seen) == (2, ["start", "end"])

    make_learner(callbacks=[logged, Aside()]).fit(1)
    assert logged.seen == ["start", "end"] * 2
    assert logged.n == 5
