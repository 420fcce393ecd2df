"""The update after a compiled step: any optimizer, its state, its rates and its groups."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    SETTINGS,
    assert_as_ordinary,
    assert_close,
    by_hand,
    doubles,
    fitted,
    learner_of,
    net,
)
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    CancelStep,
    GradientAccumulation,
    GradientClip,
    GradientNorms,
    ParamScheduler,
    WeightNoise,
    When,
    WholeStep,
    on,
)
from callbacks.annealers import cos
from learner import Data


@pytest.mark.parametrize("make", SETTINGS, ids=title_of)
def test_a_fit_ends_as_a_loop_by_hand(make):
    learn = fitted(learner_of(optimizer=make))
    model, optimizer = by_hand(make)
    assert_close(learn.model.state_dict(), model.state_dict())
    assert_close(learn.optimizer.state_dict(), optimizer.state_dict())
    assert learn.callbacks[WholeStep].kinds == ["float64[4, 1], float64[4, 1]"]


def test_a_schedule_needs_no_other_program():
    n_made = []

    def count(graph, inputs):
        n_made.append(graph)
        return graph

    learn = learner_of(ParamScheduler({"lr": cos(0.1, 0.0)}), step=WholeStep(count), optimizer=ADAM)
    fitted(learn)
    assert len(n_made) == 1


def test_gradients_are_gone_after_the_step():
    learn = fitted(learner_of(GradientNorms()))
    assert all(each.grad is None for each in learn.model.parameters())


class Named(nn.Module):
    """A model with inputs by name, an unused part and its own loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
        self.unused_first = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, inputs, targets):
        preds = self.used(inputs)
        return {"preds": preds, "loss": F.mse_loss(preds, targets), "kind": "mse"}


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_dicts_go_in_and_out_and_unused_parameters_keep_no_state(make):
    class Split(Data):
        def split(self, batch):
            return {"inputs": batch[0], "targets": batch[1]}, batch[1]

    learn = assert_as_ordinary(
        model=Named,
        optimizer=make,
        data=Split(doubles()),
        loss_func=lambda preds, targets: F.mse_loss(preds["preds"], targets),
    )
    assert len(learn.optimizer.state) == 2
    assert set(learn.preds) == {"preds", "loss", "kind"}


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_groups_and_frozen_parameters_and_what_is_unfrozen_in_mid_fit(make):
    def model():
        found = net()
        found[4].requires_grad_(False)
        return found

    @on("before_epoch")
    def unfreeze(learn):
        if learn.epoch == 1:
            learn.model[4].requires_grad_(True)
            learn.optimizer.param_groups[0]["lr"] = 0.02

    def grouped(params):
        params = list(params)
        return make([{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.1}])

    assert_as_ordinary(lambda: copy.copy(unfreeze), model=model, optimizer=grouped)


def change_gradients(learn):
    next(learn.model.parameters()).grad.mul_(2)


def replace_gradients(learn):
    each = next(learn.model.parameters())
    each.grad = each.grad * 2


UNEVEN = [pair for size in (4, 4, 2, 3, 2) for pair in doubles(1, size)]


@pytest.mark.parametrize(
    ("callback", "data"),
    [
        (lambda: GradientAccumulation(2), None),
        (lambda: GradientAccumulation(3), None),  # the last window is smaller
        (lambda: GradientAccumulation(2), UNEVEN),
        (lambda: GradientAccumulation(n_samples=6), UNEVEN),
        (lambda: GradientAccumulation(2, weight=lambda learn: learn.targets.abs().sum()), UNEVEN),
        (lambda: WeightNoise(0.1, seed=0), None),
        (lambda: When(WeightNoise(0.1, seed=0), every="2 steps"), None),
        (lambda: When(GradientClip(0.05), every="2 steps"), None),
    ],
)
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_it_can_be_combined_with_callbacks_that_change_the_update(callback, data, make):
    learn = assert_as_ordinary(callback, GradientNorms, optimizer=make, data=data)
    assert learn.callbacks[WholeStep].kinds


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_any_optimizer_may_make_the_update(make):
    assert_as_ordinary(lambda: GradientClip(0.05), optimizer=partial(make, lr=0.01))


def test_windows_of_batches_are_clipped_as_a_whole():
    assert_as_ordinary(lambda: GradientAccumulation(2), lambda: GradientClip(0.01))


def scale_loss(learn):
    learn.loss_grad = (learn.loss_grad - 0.1).abs()  # flooding


def replace_loss(learn):
    learn.loss_grad = learn.model[0].weight.pow(2).sum()


def penalize_weights(learn):
    learn.loss_grad = learn.loss_grad + learn.model[0].weight.pow(2).sum()


@pytest.mark.parametrize(
    ("event", "function"),
    [
        ("after_loss", scale_loss),
        ("before_backward", scale_loss),
        ("before_backward", penalize_weights),
        ("before_backward", replace_loss),
        ("after_backward", change_gradients),
        ("before_step", replace_gradients),
    ],
)
def test_gradients_and_the_scale_of_the_loss_may_be_changed(event, function):
    learn = assert_as_ordinary(lambda: on(event, name="meddler")(function))
    assert learn.callbacks[WholeStep].kinds


def test_steps_may_be_cancelled():
    def skip(learn):
        if learn.batch_idx % 2:
            raise CancelStep

    assert_as_ordinary(lambda: on("before_step", name="skip")(skip))
