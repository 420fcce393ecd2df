"""MixedPrecision has the bits of hand-written loops with autocast and GradScaler."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    SAM,
    CancelBatch,
    Checkpoint,
    GradientAccumulation,
    GradientClip,
    LearnerWarning,
    Metrics,
    MixedPrecision,
    Recorder,
    When,
    ZeroGrad,
    on,
)
from learner import Data, Learner

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


def learner_of(*callbacks, model=None, loss_func=F.mse_loss, n_batches=4) -> Learner:
    data, defaults = Data(line_batches(n_batches), line_batches(1)), (ZeroGrad, Metrics, Recorder)
    return Learner(model or net(), data, loss_func, sgd, callbacks, defaults=defaults)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


def by_hand(precision, n_epochs, *, init_scale=2.0**16, growth=2000, max_norm=None, n=1):
    """The loop of torch's documentation, with unscaling before clipping, and windows of n batches."""
    model, n_steps = net(), 0
    optimizer = sgd(model.parameters())
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=init_scale, growth_interval=growth, enabled=precision == "fp16"
    )
    for batch, (inputs, targets) in enumerate(n_epochs * line_batches(4)):
        with torch.autocast("cpu", DTYPES[precision]):
            loss = F.mse_loss(model(inputs), targets)
        scaler.scale(loss).backward()
        if (batch + 1) % n:
            continue
        for each in model.parameters():
            each.grad /= n
        scaler.unscale_(optimizer)
        if max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        n_steps += scaler.get_scale() >= before
        optimizer.zero_grad()
    return model, n_steps, scaler


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("n", [1, 2])
def test_the_weights_are_those_of_a_loop_by_hand_with_the_same_bits(precision, max_norm, n):
    callbacks = [GradientAccumulation(2)] * (n == 2) + [GradientClip(max_norm or 1.0)] * bool(max_norm)
    learn = learner_of(*reversed(callbacks), MixedPrecision(precision, init_scale=2.0**8))  # in any order
    learn.fit(2)
    model, n_steps, _ = by_hand(precision, 2, init_scale=2.0**8, max_norm=max_norm, n=n)
    assert same(learn.model, model)
    assert learn.global_step == n_steps == 8 // n
    plain = learner_of()
    plain.fit(2)
    assert not same(learn.model, plain.model)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("optimizer", [sgd, partial(torch.optim.Adam, lr=0.1, fused=True)])
def test_updates_that_overflow_are_left_out_and_not_counted(monkeypatch, optimizer, n):
    monkeypatch.setitem(globals(), "sgd", optimizer)  # by hand, the scaler passes the overflow to a fused one
    callback = MixedPrecision("fp16", init_scale=2.0**18, growth_interval=2)
    norms = GradientClip(0.5)
    learn = learner_of(norms, callback, GradientAccumulation(n))
    learn.fit(3)
    model, n_steps, scaler = by_hand("fp16", 3, init_scale=2.0**18, growth=2, max_norm=0.5, n=n)
    assert n_steps < 12 // n
    assert same(learn.model, model)
    assert learn.global_step == n_steps
    assert callback.scaler == scaler.state_dict()
    assert all(norm < 100 for norm in norms.norms)


@pytest.mark.parametrize("at", [1, 3, 4, 6, 7])
def test_the_scale_is_saved(tmp_path, at):
    def make(folder):
        callback = MixedPrecision("fp16", init_scale=2.0**18, growth_interval=2)
        return learner_of(callback, Checkpoint(tmp_path / folder, "1e-9 seconds"), GradientAccumulation(2))

    whole = make("whole")
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        make("run").fit(3, callbacks=[Crash(at)])
    learn = make("run")
    learn.fit(3, resume="must")
    assert same(learn.model, whole.model)
    assert learn.callbacks.mixed_precision.scaler == whole.callbacks.mixed_precision.scaler


def nan_gradient(preds, targets):
    return F.mse_loss(preds.float(), targets) + (preds.float() * 0).abs().sqrt().sum()  # sqrt at 0


def test_a_fit_in_which_every_update_overflows_is_reported_and_leaves_no_best_file(tmp_path):
    learn = learner_of(
        MixedPrecision("fp16"), Checkpoint(tmp_path / "run", best="train_loss"), loss_func=nan_gradient
    )
    with pytest.warns(LearnerWarning, match=r"all 12 updates of this fit were skipped.*nothing was trained"):
        learn.fit(3)
    assert [row["skipped_updates"] for row in learn.history] == [4, 4, 4]
    assert not list((tmp_path / "run").glob("best*"))
    assert learn.callbacks[Checkpoint].best is None


def test_a_gradient_that_overflows_at_every_scale_is_an_error_with_its_parameter():
    learn = learner_of(MixedPrecision("fp16"), loss_func=nan_gradient)
    with pytest.raises(FloatingPointError, match=r"last 32 updates were skipped.*'0\.weight'.*square root"):
        learn.fit(20)
    assert learn.global_step == 0


def test_a_scale_that_comes_down_and_then_trains_is_not_an_error(tmp_path):
    learn = learner_of(
        MixedPrecision("fp16", init_scale=2.0**30), Checkpoint(tmp_path / "run", best="train_loss")
    )
    learn.fit(8)
    skipped = [row["skipped_updates"] for row in learn.history]
    assert skipped[0] == 4
    assert skipped[-1] == 0
    assert sum(skipped) + learn.global_step == 32
    assert list((tmp_path / "run").glob("best*"))


def test_bf16_skips_nothing_and_has_no_such_result():
    learn = learner_of(MixedPrecision("bf16"))
    learn.fit(1)
    assert "skipped_updates" not in learn.history.names


@pytest.mark.parametrize("enabled", [True, False])
def test_within_an_autocast_around_the_fit_the_current_weights_are_used(enabled):
    learn = learner_of(*[] if enabled else [MixedPrecision("bf16")])
    one = torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        before = learn.model(one)
        learn.fit(2)
        assert not torch.equal(before, learn.model(one))
    assert same(learn.model, by_hand("bf16", 2)[0])


def test_autocast_is_around_forward_and_loss_only():
    seen = {}

    def loss_func(preds, targets):
        seen["loss"] = torch.is_autocast_enabled("cpu"), preds.dtype
        return F.mse_loss(preds, targets)

    class Net(nn.Linear):
        def forward(self, inputs):
            seen["forward"] = torch.is_autocast_enabled("cpu")
            return super().forward(inputs)

    @on("after_pred")
    def after_pred(learn):
        seen["after_pred"] = torch.is_autocast_enabled("cpu")

    @on("before_backward")
    def before_backward(learn):
        seen["before_backward"] = torch.is_autocast_enabled("cpu")

    learn = learner_of(MixedPrecision(), after_pred, before_backward, model=Net(1, 1), loss_func=loss_func)
    learn.fit(1)
    assert seen == {
        "forward": True,
        "loss": (True, torch.float32),
        "after_pred": False,
        "before_backward": False,
    }
    assert learn.predict(torch.rand(2, 1)).dtype == torch.float32


@pytest.mark.parametrize("error", [ZeroDivisionError, CancelBatch])
@pytest.mark.parametrize("where", ["model", "loss"])
def test_autocast_is_left_where_something_raises_or_cancels(error, where):
    class Net(nn.Linear):
        def forward(self, inputs):
            if where == "model":
                raise error
            return super().forward(inputs)

    def loss_func(preds, targets):
        raise error

    states = []

    def stream():
        for batch in line_batches(2):
            states.append(torch.is_autocast_enabled("cpu"))
            yield batch

    learn = learner_of(MixedPrecision("fp16"), model=Net(1, 1), loss_func=loss_func)
    learn.data = Data(stream)
    if error is CancelBatch:
        learn.fit(1)
    else:
        with pytest.raises(ZeroDivisionError):
            learn.fit(1)
    assert not any(states)
    assert not torch.is_autocast_enabled("cpu")


def test_other_callbacks_see_the_loss_without_its_scale():
    losses = []

    @on("after_backward")
    def see(learn):
        losses.append((learn.loss_grad.item(), learn.loss.item()))

    learner_of(MixedPrecision("fp16"), see).fit(1)
    assert all(one == other for one, other in losses)


def test_sam_works_in_bf16_and_is_refused_with_a_scaler():
    learner_of(SAM(), MixedPrecision()).fit(1)
    with pytest.raises(ValueError, match=r"SAM computes gradients again.*MixedPrecision.*bf16"):
        learner_of(SAM(), MixedPrecision("fp16")).fit(1)


def test_a_copy_is_independent():
    callback = MixedPrecision("fp16")
    learner_of(callback).fit(1)
    assert copy.deepcopy(callback).scaler == callback.scaler


@pytest.mark.parametrize(
    "options", [{"precision": "16"}, {"init_scale": 0}, {"init_scale": "1"}, {"growth_interval": 2.5}]
)
def test_a_wrong_setting_is_refused(options):
    with pytest.raises(ValueError, match="MixedPrecision"):
        MixedPrecision(**options)


def test_two_of_them_are_refused():
    with pytest.raises(ValueError, match="both set the precision"):
        learner_of(MixedPrecision(), MixedPrecision("fp16", name="other")).fit(1)


def test_an_interval_is_refused():
    with pytest.raises(ValueError, match="must run each"):
        When(MixedPrecision(), start="1 step")


def test_weights_that_are_half_already_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"leave model\.half\(\) out"):
        learner_of(MixedPrecision("fp16"), model=net().half()).fit(1)
    learn = learner_of(MixedPrecision("bf16"), model=net().bfloat16())
    learn.fit(1)
    assert learn.global_step == 4
