"""StopOnNaN: in time, with a clear message, and at negligible cost."""

from __future__ import annotations

import math

import pytest
import torch
from ground.bad_batches import SLOW, make, mse, normed, tensors_of
from torch import nn

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    LearnerWarning,
    Order,
    StopOnNaN,
    ZeroGrad,
)
from callbacks.guard import last_good
from learner import Data, Learner


class KeepWeights(Callback):
    """A callback that keeps the weights before the gradients of each batch."""

    def before_fit(self, learn):
        self.seen = []

    def before_batch(self, learn):
        self.seen.append([parameter.detach().clone() for parameter in learn.model.parameters()])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_batch_leaves_the_weights_unchanged_bit_for_bit(bad):
    keep = KeepWeights()
    learn = make([1.0, 2.0, bad, 1.0], callbacks=[keep])
    with pytest.raises(FloatingPointError, match="in batch 2 of epoch 0"):
        learn.fit(3)
    assert len(keep.seen) == 3
    assert all(torch.equal(*pair) for pair in zip(keep.seen[-1], learn.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in learn.model.parameters())


def test_the_message_shows_epoch_batch_rate_and_the_last_good_loss():
    learn = make([1.0, math.nan], lr=0.25)
    first = mse(learn.model(torch.ones(2, 1)), torch.ones(2, 1)).item()
    words = (
        rf"the loss is nan in batch 1 of epoch 0 \(lr 0\.25, last good loss {first:.6g}\): the inputs contain"
    )
    with pytest.raises(FloatingPointError, match=words):
        learn.fit(1)


def test_the_first_loss_of_a_fit_has_no_good_one_before_it():
    learn = make([1.0])
    learn.fit(2)
    learn.data = Data([(torch.full((2, 1), math.nan), torch.ones(2, 1))])
    with pytest.raises(FloatingPointError, match="the first loss of this fit"):
        learn.fit(1)


def test_a_fit_after_the_error_continues_from_the_weights_that_were_kept():
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
        FloatingPointError, match=r"the loss is inf in batch 0.*the loss function returned 0\.22.*a callback"
    ):
        make([1.0], callbacks=[Penalty()]).fit(1)


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


def test_a_bad_batch_leaves_the_statistics_of_batch_norm_unchanged():
    class KeepAll(Callback):
        def before_batch(self, learn):
            self.seen = tensors_of(learn)

    keep = KeepAll()
    learn = normed([1.0, 3.0, math.nan], [StopOnNaN(), keep])
    with pytest.raises(
        FloatingPointError, match=r"the inputs contain NaN or infinity in item 0 of the batch of 3"
    ):
        learn.fit(1)
    assert all(map(torch.equal, keep.seen, tensors_of(learn)))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (0, r"the first output that is not comes from the layer '0\.inner' \(Bad\)"),
        (1, r"the first output that is not comes from the layer '1\.inner' \(Bad\)"),
    ],
)
def test_the_first_layer_whose_output_is_bad_is_named(index, words):
    class Bad(nn.Module):
        def forward(self, inputs):
            return inputs / 0

    class Outer(nn.Module):
        def __init__(self, is_bad):
            super().__init__()
            self.linear, self.inner = nn.Linear(1, 1), Bad() if is_bad else nn.Identity()

        def forward(self, inputs):
            return self.inner(self.linear(inputs))

    learn = make([1.0])
    learn.model = nn.Sequential(Outer(index == 0), Outer(index == 1), nn.Linear(1, 1))
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match=words):
        learn.fit(1)
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_looking_for_the_bad_layer_leaves_the_random_state_alone():
    """A run that skips a batch continues as a run without that batch."""

    class Overflow(nn.Module):
        def forward(self, inputs):
            return inputs * math.inf if inputs.max() > 1e3 else inputs

    def fitted(callback):
        learn = normed([1.0, 3.0, 1e6, 2.0], [callback])
        learn.model.insert(0, Overflow())
        learn.fit(1)
        return learn

    class DropThird(Callback):
        def after_loss(self, learn):  # the forward pass has drawn, like that of the bad batch
            if learn.batch_idx == 2:
                raise CancelBatch

    with pytest.warns(LearnerWarning, match=r"comes from the layer '0' \(Overflow\)"):
        skipped = fitted(StopOnNaN(skip=1))
    other = fitted(DropThird())
    for one, two in zip(skipped.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_bad_batches_are_skipped_up_to_the_limit_and_counted_again_after_a_good_one():
    bad = math.nan
    learn = make([1.0, bad, bad, 1.0, bad, bad, 1.0])
    learn.callbacks[StopOnNaN].skip = 2
    with pytest.warns(LearnerWarning) as warned:
        learn.fit(1)
    assert learn.global_step == 3
    assert [str(each.message)[-44:] for each in warned] == [
        f"The batch is skipped ({n} of at most 2 in a row)."[-44:] for n in (1, 2, 1, 2)
    ]
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())


def test_one_bad_batch_more_than_the_cap_is_the_error():
    learn = make([1.0, math.nan, math.nan, 1.0])
    learn.callbacks[StopOnNaN].skip = 1
    with (
        pytest.warns(LearnerWarning, match="1 of at most 1 in a row"),
        pytest.raises(FloatingPointError, match=r"in batch 2 of epoch 0.*, the 2nd in a row"),
    ):
        learn.fit(1)
    assert learn.global_step == 1


@pytest.mark.parametrize("setting", [{"skip": -1}, {"skip": True}, {"skip": 1.5}, {"wait_every": 0}])
def test_a_setting_that_is_not_a_count_is_refused(setting):
    with pytest.raises(ValueError, match="must be a whole number"):
        StopOnNaN(**setting)


def test_leaving_batches_out_is_refused_where_their_loss_is_not_read_in_time(on_device):
    learn = normed([1.0], [StopOnNaN(skip=1)])
    with pytest.raises(ValueError, match=r"Pass wait_every=1 as well"):
        learn.fit(1)


def test_on_a_device_losses_of_a_pass_that_a_cancel_ends_are_read_before_the_next_begins(on_device):
    class Leave(Callback):
        order = Order.SAVE

        def after_batch(self, learn):
            if learn.batch_idx == 1:
                raise CancelEpoch

    learn = normed([1.0, math.nan, 1.0], [StopOnNaN(), Leave()])
    with pytest.raises(FloatingPointError, match="in batch 1 of epoch 0"):
        learn.fit(2)


def test_on_a_device_weights_that_are_bad_though_all_losses_are_good_end_the_fit(on_device):
    class Spoil(Callback):
        def after_step(self, learn):
            if learn.batch_idx == 1:
                with torch.no_grad():
                    learn.model[0].bias.fill_(math.nan)

    learn = normed([1.0, 2.0], [StopOnNaN(), Spoil()])
    before = tensors_of(learn)
    with pytest.raises(FloatingPointError, match=r"first in '0\.bias', after batch 1 of epoch 0"):
        learn.fit(1)
    assert all(map(torch.equal, before, tensors_of(learn)))


class Counted(nn.Module):
    """A module with the length 0, as an empty list of layers, and with buffers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def __len__(self):
        return 0

    def forward(self, x):
        return self.norm(x)


def test_buffers_are_found_in_modules_that_have_a_length_or_refuse_one():
    assert last_good.has_buffers(nn.Sequential(Counted()))
    compiled = torch.compile(nn.Linear(1, 1), backend="eager")  # len() of it raises
    assert not last_good.has_buffers(nn.ModuleDict({"a": compiled}))


class Padded(nn.Module):
    """A model with NaN in entries of a weight that are never read."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, math.nan]))

    def forward(self, inputs):
        return inputs * self.weight[:1]


def test_on_a_device_nan_that_weights_held_from_the_start_is_intended(on_device):
    batches = [(torch.ones(2, 1), torch.zeros(2, 1))] * 2
    learn = Learner(Padded(), Data(batches), mse, SLOW, [StopOnNaN(wait_every=1024)], defaults=(ZeroGrad,))
    learn.fit(2)
    assert learn.global_step == 4
    with torch.no_grad():
        learn.model.weight[0] = 1.0

    class Spoil(Callback):
        def after_step(self, learn):
            if learn.batch_idx == 1:
                learn.model.weight.data.fill_(math.nan)

    learn.add_callbacks(Spoil())
    with pytest.raises(FloatingPointError, match="weights contain NaN"):
        learn.fit(1)
