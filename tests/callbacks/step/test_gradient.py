"""ZeroGrad: gradients are dropped after each update, and only then."""

from __future__ import annotations

import pytest
import torch
from tiny import line_batches
from torch.nn import functional as F

from callbacks import Callback, CancelBatch, CancelFit, CancelStep, ZeroGrad


class WatchGradients(Callback):
    """A callback that records at several events whether there are gradients."""

    def before_fit(self, learn):
        self.seen = []

    def before_backward(self, learn):
        self.look("before_backward", learn)

    def after_step(self, learn):
        self.look("after_step", learn)

    def after_batch(self, learn):
        self.look("after_batch", learn)

    def look(self, moment, learn):
        self.seen.append((moment, learn.model.weight.grad is not None))


def test_gradients_are_there_after_the_step_and_gone_after_the_batch(make_learner):
    learn = make_learner(n_batches=2, valid=False, callbacks=[WatchGradients, ZeroGrad], defaults=())
    learn.fit(1)
    batch = [("before_backward", False), ("after_step", True), ("after_batch", False)]
    assert learn.callbacks.watch_gradients.seen == 2 * batch


def test_the_weights_are_those_of_a_loop_written_by_hand(make_learner):
    learn = make_learner(callbacks=[ZeroGrad], defaults=())
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in learn.model.parameters())
    learn.fit(2)
    for inputs, targets in 2 * line_batches():
        loss = F.mse_loss(F.linear(inputs, weight, bias), targets)
        for parameter, gradient in zip(
            (weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True
        ):
            parameter.data -= 0.1 * gradient
    assert torch.equal(learn.model.weight, weight)
    assert torch.equal(learn.model.bias, bias)


def test_a_cancelled_update_keeps_its_gradients_for_the_next(make_learner):
    class Twice(Callback):
        def before_step(self, learn):
            if learn.batch_idx % 2 == 0:
                raise CancelStep

    batches = line_batches(2)
    whole = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    joined = make_learner(
        data=whole, lr=0.2, callbacks=[ZeroGrad], defaults=()
    )  # the mean, not the sum, of two
    halves = make_learner(n_batches=2, valid=False, callbacks=[ZeroGrad, Twice], defaults=())
    joined.fit(1)
    halves.fit(1)
    torch.testing.assert_close(halves.model.weight, joined.model.weight)


def test_a_cancelled_batch_leaves_no_gradients_to_an_update(make_learner):
    class Void(Callback):
        def before_step(self, learn):
            raise CancelBatch

    learn = make_learner(callbacks=[ZeroGrad, Void], defaults=())
    learn.fit(1)
    assert learn.model.weight.grad is None
    assert learn.global_step == 0


def test_gradients_that_a_cancelled_fit_has_left_are_not_stepped(make_learner):
    class EndBeforeTheStep(Callback):
        def before_step(self, learn):
            raise CancelFit

    cancelled = make_learner(callbacks=[ZeroGrad], defaults=())
    cancelled.fit(1, callbacks=[EndBeforeTheStep])
    assert cancelled.model.weight.grad is not None
    cancelled.fit(1)
    fresh = make_learner(callbacks=[ZeroGrad], defaults=())
    fresh.fit(1)
    assert torch.equal(cancelled.model.weight, fresh.model.weight)


class Counting(torch.optim.SGD):
    n_calls = 0

    def zero_grad(self, set_to_none=True):
        self.n_calls += 1
        super().zero_grad(set_to_none)


def replaced(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    ordinary, optimizer.n_calls = optimizer.zero_grad, 0

    def counted():
        optimizer.n_calls += 1
        ordinary()

    optimizer.zero_grad = counted
    return optimizer


class OfNoKind:
    """An optimizer that does not inherit from that of torch."""

    def __init__(self, parameters):
        self.inner = torch.optim.SGD(parameters, lr=0.1)
        self.param_groups, self.state, self.n_calls = self.inner.param_groups, self.inner.state, 0
        self.step, self.state_dict = self.inner.step, self.inner.state_dict
        self.load_state_dict = self.inner.load_state_dict
        self.zero_grad = self.counted

    def counted(self):
        self.n_calls += 1
        self.inner.zero_grad()


@pytest.mark.parametrize("make", [lambda given: Counting(given, lr=0.1), replaced, OfNoKind])
def test_an_optimizer_with_its_own_zero_grad_is_called(make_learner, make):
    learn = make_learner(n_batches=2, valid=False, callbacks=[ZeroGrad], defaults=(), optimizer=make)
    learn.fit(2)
    assert learn.optimizer.n_calls >= 4
    assert learn.model.weight.grad is None


def test_gradients_of_all_groups_are_dropped_as_torch_drops_them(make_learner):
    learn = make_learner(
        callbacks=[ZeroGrad],
        optimizer=lambda given: torch.optim.SGD([{"params": [each]} for each in given], lr=0.1),
    )
    for parameter in learn.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    learn.callbacks.zero_grad.zero_grad(learn)
    assert all(parameter.grad is None for parameter in learn.model.parameters())
