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


@on("after_loss", name="doubles")
def doubles(learn):
    if learn.epoch == 1:
        learn.model[0].weight.data.mul_(2.0)


@on("after_pred", name="shrinks_early")
def shrinks_early(learn):
    shrink(learn.model)


def two_layers():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()


@pytest.mark.parametrize("callback", [Shrinks(), halves, doubles, shrinks_early])
def test_a_callback_that_writes_through_data_within_the_step_takes_effect(callback):
    setting = two_layers, F.mse_loss, lambda _: None
    ends = [fit(step, lambda: setting, callback) for step in (ZeroGrad(), WholeStep("eager"))]
    torch.testing.assert_close(ends[1].model.state_dict(), ends[0].model.state_dict(), rtol=1e-9, atol=1e-12)
    fallback = ends[1].callbacks[WholeStep].fallback
    assert (".data" in str(fallback)) == (callback in (doubles, shrinks_early))  # before the gradients


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
