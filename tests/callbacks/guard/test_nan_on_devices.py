"""StopOnNaN on a device: losses are read late, and weights are restored to an earlier point."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from ground.bad_batches import SLOW, make, mse, normed, tensors_of
from kernels import Kernels
from torch import nn

from callbacks import (
    Callback,
    LearnerWarning,
    StopOnNaN,
    StopOnNaNGradient,
    ZeroGrad,
)
from callbacks.guard import last_good
from learner import Data, Learner


class Elsewhere(torch.Tensor):
    """A loss on an imitated accelerator, which counts how often it is waited for."""

    waits = 0
    is_cpu = False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.waits += function in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_on_a_device_nothing_waits_until_the_pass_ends_and_the_first_bad_batch_is_named():
    def elsewhere(preds, targets):
        return mse(preds, targets).as_subclass(Elsewhere)

    class CountWaits(Callback):
        def after_batch(self, learn):
            self.waits = Elsewhere.waits

    Elsewhere.waits = 0
    count = CountWaits()
    learn = make([1.0, 2.0, math.nan, 1.0], loss_func=elsewhere, callbacks=[count])
    last_good = r"last good loss [0-9.]+\)\. On a device, this is detected later: the weights are restored"
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


def test_on_a_device_that_is_read_at_each_step_everything_works_as_on_a_cpu(on_device):
    learn = normed([1.0, math.nan, 2.0], [StopOnNaN(skip=1, wait_every=1)])
    with pytest.warns(LearnerWarning, match=r"batch 1 .* the inputs contain NaN"):
        learn.fit(1)
    assert learn.global_step == 2
    assert all(tensor.isfinite().all() for tensor in tensors_of(learn))


@pytest.mark.parametrize("bad_at", [0, 1, 4])
def test_on_a_device_weights_and_statistics_are_restored_to_the_start_of_the_pass(on_device, bad_at):
    values = [1.0, 2.0, 3.0, 1.0, 2.0]
    learn = normed(values, [StopOnNaN()], partial(torch.optim.Adam, lr=0.01))
    learn.fit(2)
    before = tensors_of(learn)
    values[bad_at] = math.nan
    learn.data = normed(values).data
    where = "restored as they were before batch 0 of epoch 0, and the optimizer's state is empty"
    with pytest.raises(FloatingPointError, match=rf"the loss is nan in batch {bad_at} of epoch 0 .*{where}"):
        learn.fit(1)
    assert all(map(torch.equal, before, tensors_of(learn)))
    assert not learn.optimizer.state
    learn.data = normed([1.0, 2.0]).data
    learn.fit(2)
    assert all(tensor.isfinite().all() for tensor in tensors_of(learn))


def test_on_a_device_the_losses_are_read_after_so_many_steps_and_the_copy_is_renewed(on_device):
    class KeepFourth(Callback):
        def before_batch(self, learn):
            if learn.batch_idx == 4:
                self.seen = tensors_of(learn)

    keep = KeepFourth()
    learn = normed([1.0, 2.0, 3.0, 1.0, 2.0, math.nan, 1.0, 2.0, 3.0], [StopOnNaN(wait_every=4), keep])
    with pytest.raises(FloatingPointError, match=r"in batch 5 .* as they were before batch 4 of epoch 0"):
        learn.fit(1)
    assert learn.batch_idx == 8
    assert all(map(torch.equal, keep.seen, tensors_of(learn)))


@pytest.mark.parametrize("hook", ["before_backward", "after_train"])
def test_on_a_device_a_pass_costs_a_few_kernels_however_many_weights(on_device, hook):
    class Counting(StopOnNaN):
        pass

    def count(self, learn):
        kernels = Kernels()
        with kernels:
            getattr(StopOnNaN, hook)(self, learn)
        found.append(kernels.n)

    setattr(Counting, hook, count)
    found = []
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    learn = Learner(model, Data([(torch.ones(2, 1),) * 2]), mse, SLOW, [Counting()], defaults=(ZeroGrad,))
    learn.fit(2)
    assert sum(found[1].values()) < 20


def test_on_a_device_a_layer_that_is_replaced_in_mid_fit_is_copied_too(on_device):
    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.model[0] = nn.Linear(1, 4).requires_grad_(False)
                learn.data = normed([math.nan, 1.0]).data
                self.seen = tensors_of(learn)

    replace = Replace()
    learn = normed([1.0, 2.0], [StopOnNaN(), replace])
    with pytest.raises(FloatingPointError, match="restored as they were before batch 0 of epoch 1"):
        learn.fit(2)
    assert all(map(torch.equal, replace.seen, tensors_of(learn)))


def test_on_a_device_weights_that_were_bad_from_the_start_are_reported(on_device):
    learn = normed([1.0, 2.0], [StopOnNaN()])
    with torch.no_grad():
        learn.model[0].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"'0\.bias' was NaN or infinite before batch 0 of epoch 0"):
        learn.fit(1)


@pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.Adam, torch.optim.NAdam])
def test_an_emptied_optimizer_steps_as_a_new_one(optimizer):
    def step(parameter, using):
        parameter.grad = torch.tensor([3.0])
        using.step()

    used, new = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    emptied = optimizer([used], lr=0.1)
    step(used, emptied)
    last_good.empty(emptied)
    with torch.no_grad():
        used.fill_(1.0)
    step(used, emptied)
    step(new, optimizer([new], lr=0.1))
    assert torch.equal(used, new)


def test_on_a_device_a_bad_gradient_is_found_later_and_the_weights_are_restored(on_device):
    class Spoil(Callback):
        def after_backward(self, learn):
            if learn.batch_idx == 1:
                learn.model[0].bias.grad.fill_(math.inf)

    learn = normed([1.0, 2.0, 3.0], [StopOnNaNGradient(), Spoil()])
    before = {name: each.detach().clone() for name, each in learn.model.named_parameters()}
    with pytest.raises(
        FloatingPointError, match=r"gradients are NaN or infinite in batch 1 .* restored as they"
    ):
        learn.fit(1)
    assert all(torch.equal(before[name], each) for name, each in learn.model.named_parameters())
    assert learn.model[1].running_mean.isfinite().all()
