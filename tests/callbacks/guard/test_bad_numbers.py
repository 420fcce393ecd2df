"""NaN and infinity in losses, gradients and weights; for those in checkpoints see `test_checkpoint.py`."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from callbacks import (
    Callback,
    EarlyStopping,
    LearnerWarning,
    Metrics,
    Order,
    Recorder,
    StopOnNaN,
    StopOnNaNGradient,
    ZeroGrad,
)
from learner import Data, Learner

DEFAULTS = (ZeroGrad, StopOnNaN, Metrics, Recorder)
NAN = math.nan


def mse(preds, targets):
    return (preds - targets).square().mean()


def batch(value=1.0, target=1.0):
    return torch.full((2, 1), value), torch.full((2, 1), target)


def make(batches, loss_func=mse, model=None, **options):
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return Learner(
        model or nn.Linear(1, 1), Data(batches), loss_func, optimizer, defaults=DEFAULTS, **options
    )


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_bad_loss_ends_the_fit_before_the_step_with_its_place(value):
    learn = make([batch(), batch(value)])
    with pytest.raises(
        FloatingPointError, match=r"in batch 1 of epoch 0 \(lr 0\.1, last good loss"
    ) as caught:
        learn.fit(5)
    assert learn.global_step == 1
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())
    assert any("StopOnNaN.before_backward" in note for note in caught.value.__notes__)


def test_a_number_of_bad_batches_in_a_row_can_be_skipped():
    learn = make([batch(), batch(NAN), batch()], callbacks=[StopOnNaN(skip=1)])
    with pytest.warns(LearnerWarning, match="in batch 1 of epoch 0 .*The batch is skipped"):
        learn.fit(1)
    assert learn.global_step == 2
    assert math.isfinite(learn.results["train_loss"])


def test_the_check_can_be_left_out():
    learn = make([batch(NAN)])
    learn.remove_callbacks(learn.callbacks[StopOnNaN])
    learn.fit(1)
    assert math.isnan(learn.results["train_loss"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: make([batch(NAN)]), "the inputs contain NaN or infinity"),
        (lambda: make([batch(1.0, math.inf)]), "the targets contain NaN or infinity"),
        (lambda: make([batch()], model=bad_weights("1.bias")), "the weights contain .*first in '1.bias'"),
        (lambda: make([batch()], model=bad_weights("0.weight")), "the weights contain .*first in '0.weight'"),
        (lambda: make([batch()], lambda *both: mse(*both) * math.inf), "the loss function overflows"),
        (
            lambda: make([batch()], lambda *both: mse(*both) * 0 / 0),
            "or it is a mean of nothing, for example because",
        ),
        (
            lambda: make([batch()], model=nn.Sequential(nn.Linear(1, 1), Divide())),
            r"the layer '1' \(Divide",
        ),
        (lambda: make([({"x": batch(NAN)[0], "labels": batch()[1]})], **keyed()), "the inputs contain NaN"),
    ],
    ids=["inputs", "targets", "weights", "weights of a norm", "overflow", "nothing", "layer", "mapping"],
)
def test_the_message_shows_what_is_bad(bad, words):
    with pytest.raises(FloatingPointError, match=words):
        bad().fit(1)


class Divide(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        return inputs / self.weight


def bad_weights(name):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    with torch.no_grad():
        dict(model.named_parameters())[name].fill_(NAN)
    return model


def keyed():
    class Keyed(nn.Linear):
        def forward(self, x, labels):
            return super().forward(x)

    return {"model": Keyed(1, 1)}


class Scaler(Callback):
    """A gradient scaler in a few lines: scale the loss, and skip the updates that overflow."""

    order, scale, n_skipped = Order.GRADIENT, 2.0**127, 0

    def before_backward(self, learn):
        learn.loss_grad = learn.loss_grad * self.scale

    def step(self, learn):
        gradients = [each.grad for each in learn.model.parameters()]
        if all(gradient.isfinite().all() for gradient in gradients):
            torch._foreach_div_(gradients, self.scale)
            learn.optimizer.step()
        else:
            self.n_skipped, self.scale = self.n_skipped + 1, self.scale / 2.0**30


@pytest.mark.parametrize("callbacks", [[Scaler, StopOnNaN], [StopOnNaN, Scaler]])
def test_an_overflow_that_a_scaler_skips_is_not_an_error(callbacks):
    learn = make([batch(2.0, 9.0)] * 3, callbacks=callbacks)
    learn.fit(1)
    assert learn.callbacks[Scaler].n_skipped == 1


def test_a_loss_that_is_bad_before_it_is_scaled_is_an_error():
    with pytest.raises(FloatingPointError, match="the inputs contain NaN"):
        make([batch(NAN)], callbacks=[Scaler]).fit(1)


def test_a_loss_of_float64_trains():
    learn = make([batch()], lambda preds, targets: mse(preds.double(), targets.double()))
    learn.fit(2)
    assert learn.global_step == 2


@pytest.mark.parametrize(
    ("loss_func", "words"),
    [
        (
            lambda preds, targets: mse(preds, targets).round().long(),
            "the loss has no gradient.*look there",
        ),
        (lambda preds, targets: mse(preds, targets) * (1 + 1j), "the loss is complex64: reduce it"),
    ],
    ids=["int", "complex"],
)
def test_a_loss_that_cannot_be_differentiated_is_an_error_and_no_step_is_made(loss_func, words):
    learn = make([batch()], loss_func)
    with pytest.raises((TypeError, ValueError), match=words):
        learn.fit(1)
    assert learn.global_step == 0


def test_a_metric_that_is_nan_is_not_an_improvement():
    values = iter([2.0, NAN, 1.0, NAN, NAN, NAN])

    def shaky(preds, targets):
        return next(values)

    data = Data([batch()], [batch()])
    stopping = EarlyStopping("valid_shaky", mode="min", patience=2)
    learn = Learner(
        nn.Linear(1, 1),
        data,
        mse,
        partial(torch.optim.SGD, lr=0.01),
        [Metrics(shaky), stopping],
        defaults=DEFAULTS,
    )
    learn.fit(6)
    assert learn.history.best("valid_shaky", "min")["epoch"] == 2
    assert len(learn.history) == 5
    assert "valid_shaky" in learn.stop_reason


def test_a_bad_gradient_of_a_finite_loss_ends_the_fit_before_the_update(make_learner):
    """The square root is finite at 0, but its slope is infinite, and 0 times infinity is NaN."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.bad = nn.Linear(1, 1), nn.Parameter(torch.zeros(1))

        def forward(self, inputs):
            return self.good(inputs) + (0 * self.bad).sqrt()

    learn = make_learner(model=Root(), callbacks=[StopOnNaNGradient()])
    before = [parameter.detach().clone() for parameter in learn.model.parameters()]
    with pytest.raises(FloatingPointError, match=r"batch 0 of epoch 0, first in 'bad'\. Look for"):
        learn.fit(1)
    assert all(map(torch.equal, before, learn.model.parameters()))


class Observer(nn.Linear):
    """Its buffer gets another shape in the first batch, as in observers for quantization."""

    def __init__(self):
        super().__init__(1, 1)
        self.register_buffer("largest", torch.zeros(1))

    def forward(self, inputs):
        self.largest.resize_(len(inputs)).copy_(inputs.detach().abs().amax(1))
        return super().forward(inputs)


def test_a_buffer_that_the_forward_pass_resizes_is_kept():
    learn = make([batch(), batch(2.0)], model=Observer())
    learn.fit(2)
    assert learn.model.largest.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("n_good", [0, 2])
def test_a_buffer_that_was_resized_is_restored_with_the_shape_of_the_batch_before(n_good):
    learn = make([*[batch()] * n_good, batch(NAN)], model=Observer())
    with pytest.raises(FloatingPointError):
        learn.fit(1)
    assert learn.model.largest.tolist() == ([1.0, 1.0] if n_good else [0.0])
