"""Changes by callbacks within a compiled step take effect, and so do settings around it."""

from __future__ import annotations

import pytest
import torch
from changed_settings import BATCHES, Model, fit
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, GradientClip, GradientNorms, WholeStep, ZeroGrad, on


class Double(Callback):
    """A callback that doubles gradients in place, after the clip."""

    def before_step(self, learn):
        for each in learn.model.parameters():
            each.grad.mul_(2)


def test_clipping_by_value_can_be_combined_with_a_callback_that_reads_gradients():
    def setting():
        return Model, F.mse_loss, lambda _: None

    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        learn = fit(step, setting, GradientClip(max_value=0.01), GradientNorms())
        ends.append((learn.model.weight, learn.history.names and list(learn.history)[-1]["gradient_norm"]))
    torch.testing.assert_close(ends[0], ends[1])
    whole, ordinary = (
        fit(step, setting, GradientClip(max_value=0.01), Double())
        for step in (WholeStep("eager"), ZeroGrad())
    )
    torch.testing.assert_close(whole.model.weight, ordinary.model.weight)


def shrink(module):
    for each in module.parameters():
        each.data.mul_(0.9)


class Shrinks(Callback):
    """A callback that decays weights by hand in a helper, as old code does."""

    def before_step(self, learn):
        if learn.epoch == 1:
            shrink(learn.model)


@on("after_backward", name="halves")
def halves(learn):
    for each in learn.model.parameters():
        each.grad.data = each.grad * 0.5


def two_layers():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()


@pytest.mark.parametrize("callback", [Shrinks(), halves])
def test_a_callback_that_writes_through_data_after_the_gradients_takes_effect(callback):
    setting = two_layers, F.mse_loss, lambda _: None
    ends = [fit(step, lambda: setting, callback) for step in (ZeroGrad(), WholeStep("eager"))]
    torch.testing.assert_close(ends[1].model.state_dict(), ends[0].model.state_dict(), rtol=1e-9, atol=1e-12)
    assert ends[1].callbacks[WholeStep].fallback is None


def through_data(learn):
    learn.model[0].weight.data.mul_(2.0)


def through_numpy(learn):
    learn.model[1].bias.detach().numpy()[0] += 1


def through_an_own_view(learn):
    learn.preds.detach().numpy()[:] *= 2


@pytest.mark.parametrize("event", ["after_pred", "after_loss", "before_backward"])
@pytest.mark.parametrize("write", [through_data, through_numpy, through_an_own_view])
def test_a_callback_that_writes_to_what_the_gradients_depend_on_before_them_is_an_error(write, event):
    late = on(event, name="late")(lambda learn: learn.epoch == 1 and write(learn))
    with pytest.raises(ValueError, match=r"WholeStep: late has changed"):
        fit(WholeStep("eager"), lambda: (two_layers, F.mse_loss, lambda _: None), late)


class Centred(nn.Module):
    """A loss with a centre that a callback moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, dtype=torch.float64))

    def forward(self, preds, targets):
        return F.mse_loss(preds, targets) + (preds - self.centre).abs().mean()


@on("after_loss", name="moves")
def moves(learn):
    with torch.no_grad():
        learn.loss_func.centre.lerp_(learn.preds.mean(), 0.1)


@on("after_loss", name="reads")
def reads(learn):
    assert not learn.preds.isinf().any()


@pytest.mark.parametrize("callback", [moves, reads], ids=["moves", "reads"])
def test_a_callback_may_read_after_the_loss_or_write_to_what_the_gradients_do_not_need(callback):
    ends = [
        fit(step, lambda: (two_layers, Centred(), lambda _: None), callback)
        for step in (ZeroGrad(), WholeStep("eager"))
    ]
    torch.testing.assert_close(ends[1].model.state_dict(), ends[0].model.state_dict(), rtol=1e-9, atol=1e-12)
    assert ends[1].callbacks[WholeStep].fallback is None


@on("after_loss", name="looks")
def looks(learn):
    assert learn.data.train is not None


def test_a_callback_that_reads_the_data_of_the_learner_causes_no_fallback():
    whole = fit(WholeStep("eager"), lambda: (Model, F.mse_loss, lambda _: None), looks)
    assert whole.callbacks[WholeStep].fallback is None


def test_an_autocast_around_the_fit_is_a_part_of_the_program():
    def setting():
        return lambda: nn.Linear(2, 1), lambda p, t: F.mse_loss(p.double(), t), lambda _: None

    batches = [(x.float(), y) for x, y in BATCHES]
    with torch.autocast("cpu", torch.bfloat16):
        whole, ordinary = (fit(step, setting, data=batches) for step in (WholeStep("eager"), ZeroGrad()))
    assert whole.callbacks[WholeStep].fallback is None
    torch.testing.assert_close(whole.model.state_dict(), ordinary.model.state_dict())
