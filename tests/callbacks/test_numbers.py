"""StopOnNaN: in time, in words, and at no cost to be told of."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from callbacks import Callback, StopOnNaN, ZeroGrad
from learner import Data, Learner


class Elsewhere(torch.Tensor):
    """A loss that says it is on an accelerator, and counts how often it is waited for."""

    waits = 0
    is_cpu = False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.waits += function in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__)
        return super().__torch_function__(function, types, args, kwargs or {})


def mse(preds, targets):
    return (preds - targets).square().mean()


def make(values, loss_func=mse, plugins=(), lr=0.1, dtype=torch.float32):
    """A learner of one batch for each value, which is the inputs' value."""
    torch.manual_seed(0)
    batches = [(torch.full((2, 1), value, dtype=dtype), torch.ones(2, 1, dtype=dtype)) for value in values]
    optimizer = partial(torch.optim.SGD, lr=lr)
    model = nn.Linear(1, 1, dtype=dtype)
    return Learner(model, Data(batches), loss_func, optimizer, [StopOnNaN(), *plugins], defaults=(ZeroGrad,))


class KeepWeights(Callback):
    """The weights before each batch's gradients."""

    def before_fit(self, learn):
        self.seen = []

    def before_batch(self, learn):
        self.seen.append([parameter.detach().clone() for parameter in learn.model.parameters()])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_weights_stay_bit_for_bit_as_they_were_before_the_bad_batch(bad):
    keep = KeepWeights()
    learn = make([1.0, 2.0, bad, 1.0], plugins=[keep])
    with pytest.raises(FloatingPointError, match="in batch 2 of epoch 0"):
        learn.fit(3)
    assert len(keep.seen) == 3
    assert all(torch.equal(*pair) for pair in zip(keep.seen[-1], learn.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in learn.model.parameters())


def test_the_message_tells_epoch_batch_rate_and_the_last_good_loss():
    learn = make([1.0, math.nan], lr=0.25)
    first = mse(learn.model(torch.ones(2, 1)), torch.ones(2, 1)).item()
    words = (
        rf"the loss is nan in batch 1 of epoch 0 \(lr 0\.25, last good loss {first:.6g}\): the inputs hold"
    )
    with pytest.raises(FloatingPointError, match=words):
        learn.fit(1)


def test_the_first_loss_of_a_fit_has_no_good_one_before_it():
    learn = make([1.0])
    learn.fit(2)
    learn.data = Data([(torch.full((2, 1), math.nan), torch.ones(2, 1))])
    with pytest.raises(FloatingPointError, match="it is the first of this fit"):
        learn.fit(1)


def test_a_fit_after_the_error_trains_on_from_the_weights_that_were_kept():
    learn = make([1.0, math.nan])
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    learn.data = Data([(torch.ones(2, 1), torch.ones(2, 1))])
    step = learn.global_step
    learn.fit(2)
    assert learn.global_step == step + 2
    assert learn.error is None


def test_a_loss_of_float64_is_good_where_float32_would_overflow():
    learn = make([1e25], dtype=torch.float64, lr=1e-9)
    learn.fit(1)
    assert learn.loss.dtype == torch.float64
    assert learn.loss > 1e40


def test_a_penalty_that_is_bad_is_found_although_the_loss_is_good():
    class Penalty(Callback):
        def after_loss(self, learn):
            learn.loss_grad = learn.loss_grad + math.inf

    with pytest.raises(
        FloatingPointError, match=r"the loss is inf in batch 0.*finite, so the model or the loss"
    ):
        make([1.0], plugins=[Penalty()]).fit(1)


def test_an_empty_batch_is_named_as_the_cause():
    learn = make([1.0])
    learn.data = Data([(torch.ones(0, 1), torch.ones(0, 1))])
    with pytest.raises(FloatingPointError, match="the batch is empty, and the mean of nothing is NaN"):
        learn.fit(1)


def test_a_bad_loss_in_validation_does_not_end_the_fit():
    learn = make([1.0])
    learn.data = Data(learn.data.train, [(torch.full((2, 1), math.nan), torch.ones(2, 1))])
    learn.fit(1)
    assert learn.global_step == 1


def test_on_a_device_nothing_waits_until_the_pass_ends_and_the_first_bad_batch_is_named():
    def elsewhere(preds, targets):
        return mse(preds, targets).as_subclass(Elsewhere)

    class CountWaits(Callback):
        def after_batch(self, learn):
            self.waits = Elsewhere.waits

    Elsewhere.waits = 0
    count = CountWaits()
    learn = make([1.0, 2.0, math.nan, 1.0], loss_func=elsewhere, plugins=[count])
    last_good = r"last good loss [0-9.]+\); it was found at the end of the pass, so the weights are no longer"
    with pytest.raises(
        FloatingPointError, match=rf"the loss is nan in batch 2 of epoch 0 \(lr 0\.1, {last_good}"
    ):
        learn.fit(1)
    assert count.waits == 0
    assert Elsewhere.waits == 1


def test_on_a_device_good_losses_pass_epoch_after_epoch():
    learn = make([1.0, 2.0], loss_func=lambda *both: mse(*both).as_subclass(Elsewhere), lr=0.01)
    learn.fit(2)
    learn.fit(1)
    assert learn.global_step == 6
