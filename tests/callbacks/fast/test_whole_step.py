"""WholeStep compared with hand-written loops: models, data and callbacks of all kinds."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    N_BATCHES,
    N_EPOCHS,
    assert_as_ordinary,
    assert_close,
    by_hand,
    doubles,
    fitted,
    learner_of,
    net,
)
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, lr_scheduler

from callbacks import (
    EMA,
    CancelBatch,
    GradientClip,
    GradientNorms,
    MixedPrecision,
    ParamScheduler,
    StopOnNaN,
    TorchScheduler,
    WeightUpdates,
    When,
    WholeStep,
    ZeroGrad,
    on,
)
from callbacks.annealers import cos
from learner import Data


def test_a_fit_in_float32_equals_a_hand_written_loop_up_to_rounding():
    learn = fitted(learner_of(model=net(torch.float32), data=line_batches(N_BATCHES)))
    model, _ = by_hand(MOMENTUM, net(torch.float32), line_batches(N_BATCHES))
    for one, other in zip(learn.model.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class Turned(nn.Module):
    """A model that draws random numbers for tensors whose memory is in another order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(1, 6).double(), nn.Linear(2, 1).double()

    def forward(self, x):
        turned = self.first(x).view(-1, 2, 3).transpose(1, 2)
        noisy = F.dropout(turned, 0.3, self.training) + 0.1 * torch.randn_like(turned)
        return self.last(noisy * torch.rand_like(turned)).mean(1)


def test_random_numbers_are_those_of_the_ordinary_step_in_any_layout():
    assert_as_ordinary(model=Turned, optimizer=ADAM, step=WholeStep("aot_eager"))


def test_dropout_differs_from_step_to_step_and_batch_norm_counts():
    learn, seen = learner_of(data=1 * doubles(1)), []
    learn.add_callbacks(on("after_pred", name="look")(lambda learn: seen.append(learn.preds)))
    learn.optimizer.param_groups[0]["lr"] = 1e-12  # so that only dropout differs
    fitted(learn, 6)
    assert len({tuple(each.flatten().tolist()) for each in seen}) == 6
    assert learn.model[1].num_batches_tracked == 6


@pytest.mark.parametrize("backend", ["eager", "aot_eager", lambda graph, inputs: graph])
def test_backends_are_names_or_functions(backend):
    assert_as_ordinary(step=WholeStep(backend))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ParamScheduler(
            {"lr": cos(0.1, 0.0), "momentum": cos(0.95, 0.5), "weight_decay": cos(0.1, 0.0)}
        ),
        lambda: TorchScheduler(partial(lr_scheduler.ExponentialLR, gamma=0.5), every="1 step"),
        lambda: GradientClip(0.05),
        lambda: GradientClip(0.05, norm_type=float("inf")),
        lambda: GradientClip(max_value=0.01),
        GradientNorms,
        EMA,
        WeightUpdates,
        StopOnNaN,
        lambda: When(GradientNorms(), every="2 steps"),
    ],
)
def test_it_can_be_combined_with(callback):
    learn = assert_as_ordinary(callback, optimizer=partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1))
    assert len(learn.callbacks[WholeStep].kinds) == 1


def test_clipping_and_callbacks_that_read_gradients_can_be_combined():
    seen = []

    def look(learn):
        seen.append([each.grad.clone() for each in learn.model.parameters()])

    def looker():
        return on("after_backward", name="look")(look)

    assert_as_ordinary(lambda: GradientClip(0.05), GradientNorms, looker)
    assert len(seen) == 2 * N_EPOCHS * N_BATCHES
    for one, other in zip(seen, seen[N_EPOCHS * N_BATCHES :], strict=False):
        assert_close(one, other)


def test_a_smaller_last_batch_gets_its_own_program():
    batches = [*doubles(3), tuple(each[:2] for each in doubles(1)[0])]
    learn = assert_as_ordinary(data=batches)
    assert learn.callbacks[WholeStep].kinds == [
        "float64[4, 1], float64[4, 1]",
        "float64[2, 1], float64[2, 1]",
    ]


def test_bf16_equals_ordinary_bf16_up_to_rounding():
    models = []
    for step in (ZeroGrad(), WholeStep("eager")):
        learn = learner_of(MixedPrecision("bf16"), step=step, model=net(torch.float32), data=line_batches(4))
        learn.fit(N_EPOCHS)
        assert learn.preds.dtype is torch.float32
        models.append(learn.model)
    learn = learner_of(model=net(torch.float32), data=line_batches(4))
    learn.fit(N_EPOCHS)
    for one, other, exact in zip(*(each.parameters() for each in (*models, learn.model)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)
        assert not torch.equal(other, exact)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one = nn.Linear(1, 1).double()
            self.other = nn.Linear(1, 1).double()
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(torch.tanh(self.one(x)))

    learn = assert_as_ordinary(model=Tied)
    assert learn.model.one.weight is learn.model.other.weight


def test_validation_runs_as_it_did():
    learn = assert_as_ordinary(data=Data(doubles(), doubles(2)))
    assert len(learn.history["valid_loss"]) == N_EPOCHS


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(1, 3, 2, dropout=0.2).double(), nn.Linear(3, 1).double()

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def test_a_recurrent_model_is_compiled_too():
    learn = assert_as_ordinary(model=Recurrent, optimizer=ADAM)
    assert learn.callbacks[WholeStep].kinds


def test_a_lazy_model_is_made_by_an_ordinary_step():
    def lazy():
        torch.manual_seed(0)
        return nn.Sequential(nn.LazyLinear(3, dtype=torch.float64), nn.Linear(3, 1).double())

    learn = learner_of(model=lazy(), optimizer=ADAM)
    fitted(learn)
    ordinary = learner_of(model=lazy(), optimizer=ADAM, step=ZeroGrad())
    ordinary.fit(N_EPOCHS)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert learn.callbacks[WholeStep].kinds


def test_a_check_tries_the_ordinary_operations():
    text = str(learner_of().check())
    assert "reaches 8 of 8" in text
    assert "ok: 0 errors" in text


def test_a_batch_that_is_cancelled_has_changed_no_weight():
    @on("before_backward")
    def skip(learn):
        if learn.batch_idx == 2:
            raise CancelBatch

    assert_as_ordinary(lambda: skip)


def test_a_loss_that_is_nan_ends_the_fit_with_the_weights_as_they_were():
    batches = doubles()
    batches[3][0][0] = float("nan")
    weights = []
    for step in (ZeroGrad(), WholeStep("eager")):
        learn = learner_of(StopOnNaN(), step=step, data=batches)
        with pytest.raises(FloatingPointError, match="batch 3 of epoch 0"):
            learn.fit(1)
        weights.append(learn.model.state_dict())
    assert_close(*weights)
