"""Objects that are replaced or added during a fit are used or reported, compared with hand-written loops."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import torch
from ground.replaced import (
    N_BATCHES,
    after_epoch,
    assert_same,
    at,
    doubles,
    learner_of,
    line,
)
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from callbacks import (
    SAM,
    BatchNormFreeze,
    CancelEpoch,
    CancelStep,
    CancelTrain,
    EarlyStopping,
    GradientAccumulation,
    GradientNorms,
    LeanStep,
    LearnerWarning,
    Metrics,
    MixedPrecision,
    MixUp,
    Order,
    Recorder,
    When,
    ZeroGrad,
    on,
)
from learner import Data

# Gradients that add up


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5).double())

    def forward(self, preds, targets):
        return F.mse_loss(preds * self.scale, targets)


def test_a_parameter_of_the_loss_gets_the_mean_of_a_window_too():
    def parts():
        model, loss_func = line(), Scaled()
        return model, loss_func, SGD([*model.parameters(), *loss_func.parameters()], lr=0.1)

    model, loss_func, optimizer = parts()
    learner_of(model, GradientAccumulation(N_BATCHES), optimizer=optimizer, loss_func=loss_func).fit(1)
    own, own_loss, optimizer = parts()
    for inputs, targets in doubles():
        (own_loss(own(inputs), targets) / N_BATCHES).backward()
    optimizer.step()
    assert_same(
        {**model.state_dict(), **loss_func.state_dict()}, {**own.state_dict(), **own_loss.state_dict()}
    )


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_of_an_update_that_was_left_out_are_divided_once(n):
    @on("before_step", name="leave_out")
    def leave_out(learn):
        if learn.batch_idx == n - 1:
            raise CancelStep

    learn = learner_of(line(), GradientAccumulation(n), leave_out)
    learn.fit(1)
    model = line()
    optimizer = SGD(model.parameters(), lr=0.1)
    for number, (inputs, targets) in enumerate(doubles()):
        (F.mse_loss(model(inputs), targets) / n).backward()
        if number > n - 1 and number % n == n - 1:
            optimizer.step()
            optimizer.zero_grad()
    assert_same(learn.model.state_dict(), model.state_dict())


def test_a_scaled_gradient_adds_to_that_of_an_update_that_was_left_out():
    @on("before_step", name="leave_out")
    def leave_out(learn):
        if learn.batch_idx % 2 == 0:
            raise CancelStep

    def fitted(*callbacks):
        learn = learner_of(line().float(), leave_out, *callbacks, data=Data(line_batches(N_BATCHES)))
        learn.fit(1)
        return learn.model.state_dict()

    ordinary, mixed = fitted(), fitted(MixedPrecision("fp16", init_scale=256.0))
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, ordinary[name], rtol=0.01, atol=0.01)


# Conflicts with callbacks that are added during a fit


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (lambda: GradientAccumulation(2), SAM, "computes those of the last batch again"),
        (SAM, lambda: MixedPrecision("fp16"), "computes gradients again"),
        (SAM, lambda: GradientAccumulation(2), "computes those of the last batch again"),
    ],
)
def test_callbacks_that_conflict_are_refused_in_mid_fit_too(first, second, words):
    learn = learner_of(
        line().float(),
        first(),
        at("before_batch", 1, 0, lambda learn: learn.add_callbacks(second())),
        data=Data(line_batches(N_BATCHES)),
    )
    with pytest.raises(ValueError, match=words):
        learn.fit(2)


def test_a_precision_that_is_changed_to_fp16_gets_its_scale():
    norms: list[float] = []
    learn = learner_of(
        line().float(),
        MixedPrecision("bf16"),
        at("after_backward", 1, 1, lambda learn: norms.append(learn.model.weight.grad.abs().item())),
        after_epoch(0, lambda learn: setattr(learn.callbacks.mixed_precision, "precision", "fp16")),
        data=Data(line_batches(N_BATCHES)),
    )
    learn.fit(2)
    assert norms[0] > 100
    assert learn.callbacks.mixed_precision.scaler is not None


def test_a_loss_that_becomes_a_sum_is_reported():
    become = at("before_batch", 1, 1, lambda learn: setattr(learn, "loss_func", nn.MSELoss(reduction="sum")))
    with pytest.raises(ValueError, match="was changed to a sum"):
        learner_of(line(), GradientAccumulation(2), become).fit(2)


# Modes


@pytest.mark.parametrize("event", ["before_validate", "after_validate"])
def test_a_part_stays_in_evaluation_mode_where_an_epoch_is_cancelled_in_validation(event):
    model = nn.Sequential(line(), nn.BatchNorm1d(1).double())

    @on(event, name="cancel")
    def cancel(learn):
        raise CancelEpoch

    seen: list[bool] = []
    look = on("before_batch", name="look")(lambda learn: learn.training and seen.append(model[1].training))
    freeze = on("before_fit", name="freeze")(lambda learn: model[1].eval())
    learner_of(model, cancel, look, freeze, data=Data(doubles(), doubles())).fit(2)
    assert seen == 2 * N_BATCHES * [False]


def test_batch_norm_that_is_frozen_in_the_middle_of_a_pass_stays_as_it_is():
    model = nn.Sequential(line(), nn.BatchNorm1d(1).double())
    learn = learner_of(
        model,
        at(
            "before_batch",
            0,
            2,
            lambda learn: learn.add_callbacks(BatchNormFreeze("all")),
            order=Order.PREPARE,
        ),
    )
    learn.fit(2)
    assert model[1].num_batches_tracked == 3  # the batch in which it was added had begun


# Settings


def test_the_window_may_be_changed():
    when = When(GradientNorms(), start="1 step")
    when.start = "2 epochs"
    learn = learner_of(line(), when)
    learn.fit(3)
    assert ["grad_norm" in row for row in learn.history] == [False, False, True]
    with pytest.raises(ValueError, match="When\\(until='soon'\\)"):
        when.until = "soon"
    assert when.until is None


def test_what_early_stopping_looks_at_may_be_changed_between_fits():
    stop = EarlyStopping("valid_loss", patience=1)
    stop.monitor = "train_loss"
    learn = learner_of(line(), stop)
    learn.fit(1)
    assert stop.best == learn.history[0]["train_loss"]


def test_a_loss_that_is_replaced_in_mid_pass_is_mixed():
    used: list = []

    def other(preds, targets):
        used.append(targets)
        return F.l1_loss(preds, targets)

    learn = learner_of(
        line(), MixUp(seed=0), at("after_batch", 0, 1, lambda learn: setattr(learn, "loss_func", other))
    )
    learn.fit(1)
    assert len(used) == 2 * 2  # its own targets, and the other ones
    assert learn.loss_func is other


# LeanStep


def halve(learn) -> None:
    learn.model.bfloat16()


def test_weights_that_become_half_precision_take_the_ordinary_step():
    def fitted(step):
        data = Data(line_batches(N_BATCHES))
        to_half = on("before_batch", name="to_half")(
            lambda learn: setattr(
                learn, "inputs", tuple(each.to(learn.model.weight.dtype) for each in learn.inputs)
            )
        )
        options = {
            "optimizer": partial(SGD, lr=0.1, weight_decay=0.01),
            "loss_func": lambda preds, targets: F.mse_loss(preds.float(), targets),
            "defaults": (Metrics, Recorder),
        }
        learn = learner_of(line().float(), step, to_half, after_epoch(1, halve), data=data, **options)
        learn.fit(12)
        return learn

    with pytest.warns(LearnerWarning, match="weights have become torch.bfloat16"):
        lean = fitted(LeanStep())
    ordinary = fitted(ZeroGrad())
    for one, other in zip(lean.model.parameters(), ordinary.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_settings_that_come_in_mid_fit_take_the_ordinary_step(name):
    def change(learn):
        learn.optimizer.param_groups[0][name] = True

    optimizer, defaults = partial(Adam, lr=0.1), (Metrics, Recorder)
    learn = learner_of(
        line(), LeanStep(), at("before_batch", 1, 0, change), optimizer=optimizer, defaults=defaults
    )
    # torch's own step may refuse it here
    warns = pytest.warns(LearnerWarning, match="during the fit")
    with warns, contextlib.suppress(AssertionError, RuntimeError):
        learn.fit(2)
    assert learn.callbacks[LeanStep].fallback


# Errors


def test_an_error_of_a_validation_that_is_caught_is_not_that_of_the_fit():
    def look(learn):
        with contextlib.suppress(RuntimeError):
            learn.validate([(torch.ones(4, 7).double(), torch.ones(4, 1).double())])

    learn = learner_of(line(), at("after_batch", 0, 1, look))
    learn.fit(1)
    assert learn.error is None


@pytest.mark.parametrize("cancel", [CancelTrain, CancelEpoch])
@pytest.mark.parametrize("event", ["after_backward", "before_step", "after_step"])
def test_a_pass_that_is_cancelled_in_mid_update_leaves_no_gradients_to_the_next(event, cancel):
    def leave(learn):
        raise cancel

    learn = learner_of(line(), at(event, 0, 1, leave), optimizer=partial(SGD, lr=0.1, momentum=0.9))
    learn.fit(2)
    model = line()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = doubles()
    for inputs, targets in [*batches[: 2 if event == "after_step" else 1], *batches]:
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(learn.model.weight, model.weight)
