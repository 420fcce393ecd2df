"""The update after a compiled step: any optimizer, its state, its rates and its groups."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    N_EPOCHS,
    SETTINGS,
    Settled,
    as_ordinary_with,
    assert_as_ordinary,
    assert_close,
    by_hand,
    doubles,
    fitted,
    group_of,
    learner_of,
    net,
)
from tiny import title_of
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, RMSprop

from callbacks import (
    CancelStep,
    GradientAccumulation,
    GradientClip,
    GradientNorms,
    ParamScheduler,
    WeightNoise,
    When,
    WholeStep,
    ZeroGrad,
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
    """Takes inputs by name, has a part that is not used, and computes its own loss."""

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
def test_it_goes_together_with_what_changes_the_update(callback, data, make):
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


def test_parameters_that_share_a_gradient_do_not_share_its_tensor():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))

        def forward(self, x):
            return x + self.one + self.other

    assert_as_ordinary(lambda: GradientAccumulation(2), model=Sum)


def let_go(learn):
    learn.optimizer.state.pop(group_of(learn)["params"].pop(), None)


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
@pytest.mark.parametrize(
    "change",
    [
        lambda learn: group_of(learn)["params"].reverse(),
        lambda learn: learn.optimizer.state.pop(learn.model.layer.weight, None),
        lambda learn: learn.optimizer.state.clear(),
        let_go,
        lambda learn: setattr(learn, "optimizer", RMSprop(learn.model.parameters(), lr=0.01)),
        lambda learn: setattr(learn, "optimizer", Adam(learn.model.parameters(), lr=0.01)),
    ],
)
def test_what_the_optimizer_holds_may_be_replaced(change, make):
    as_ordinary_with(change, optimizer=make)


@pytest.mark.parametrize("event", ["after_backward", "before_step"])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
@pytest.mark.parametrize(
    "change",
    [
        lambda learn: group_of(learn).update(lr=0.003),
        lambda learn: group_of(learn).update(weight_decay=0.1),
        lambda learn: learn.optimizer.load_state_dict(learn.optimizer.state_dict()),
        lambda learn: learn.optimizer.state.clear(),
        lambda learn: torch.no_grad()(learn.model.layer.weight.mul_)(0.5),
        lambda learn: setattr(learn, "optimizer", SGD(learn.model.parameters(), lr=0.01)),
    ],
)
def test_what_is_changed_between_forward_and_step_counts(change, make, event):
    learn = as_ordinary_with(change, event, lambda: GradientClip(0.5), optimizer=make)
    assert learn.callbacks[WholeStep].fallback is None


def test_a_zero_grad_of_the_optimizers_own_is_called():
    def change(learn):
        learn.optimizer.zero_grad = lambda: None

    as_ordinary_with(change)


@pytest.mark.parametrize("event", ["after_pred", "after_loss", "before_backward"])
def test_a_rate_that_is_changed_before_there_are_gradients_counts(event):
    learn = as_ordinary_with(lambda learn: group_of(learn).update(lr=0.003), event)
    assert learn.callbacks[WholeStep].fallback is None


def test_a_count_that_is_set_for_one_parameter_is_its_own():
    def change(learn):
        learn.optimizer.state[learn.model.layer.weight]["step"].fill_(50)

    as_ordinary_with(change, optimizer=ADAM)


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_groups_need_not_have_the_order_of_the_model(make):
    def grouped(model):
        a, b, c, d = model.parameters()
        return make([{"params": [d, a]}, {"params": [c], "lr": 0.003}, {"params": [b], "weight_decay": 0.1}])

    learners = [
        learner_of(step=step, model=(model := Settled()), optimizer=grouped(model))
        for step in (WholeStep("eager"), ZeroGrad())
    ]
    for learn in learners:
        learn.fit(N_EPOCHS)
    assert_close(learners[0].model.state_dict(), learners[1].model.state_dict())
    assert_close(learners[0].optimizer.state_dict(), learners[1].optimizer.state_dict())


class Bending(nn.Module):
    """Uses a part for large batches alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.always, self.large = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()

    def forward(self, x):
        return self.always(x) + (self.large(x) if len(x) > 3 else 0)


@pytest.mark.parametrize("sizes", [(2, 4, 2, 4, 4), (4, 2, 4, 2, 4)])
def test_parameters_that_are_used_now_and_then_are_trained(sizes):
    data = [pair for size in sizes for pair in doubles(1, size)]
    assert_as_ordinary(model=Bending, data=data)


def test_a_rate_may_be_a_tensor():
    assert_as_ordinary(optimizer=partial(Adam, lr=torch.tensor(0.01)))
