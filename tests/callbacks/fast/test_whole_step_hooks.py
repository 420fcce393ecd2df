"""Hooks and callbacks that come in the middle of a fit with a compiled step."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    N_EPOCHS,
    as_ordinary_with,
    assert_as_ordinary,
    assert_close,
    assert_falls_back,
    learner_of,
    net,
    once,
)
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    EMA,
    ActivationStats,
    CancelBatch,
    GradientAccumulation,
    GradientClip,
    LearnerWarning,
    MixedPrecision,
    WeightNoise,
    When,
    WholeStep,
    ZeroGrad,
    on,
)


def drop_grad(param):
    param.grad.zero_()


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
@pytest.mark.parametrize(
    "register",
    [
        lambda learn: learn.model.layer.weight.register_hook(lambda grad: 0 * grad),
        lambda learn: learn.model.layer.weight.register_post_accumulate_grad_hook(drop_grad),
        lambda learn: learn.optimizer.register_step_post_hook(lambda *_: learn.model.layer.bias.data.zero_()),
    ],
)
def test_hooks_that_come_in_mid_fit_are_called(register, make):
    as_ordinary_with(register, optimizer=make)


def test_a_hook_of_a_parameter_that_comes_in_mid_fit_is_called_from_its_first_step():
    def replace(learn):
        weight = nn.Parameter(learn.model.layer.weight.detach().clone())
        weight.register_post_accumulate_grad_hook(drop_grad)
        learn.model.layer.weight = weight
        learn.optimizer.add_param_group({"params": [weight]})

    as_ordinary_with(replace, optimizer=MOMENTUM)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightNoise(0.1, seed=0),
        lambda: When(GradientClip(0.01), start="1 step"),
        lambda: GradientClip(0.01),
        lambda: GradientAccumulation(2),
        lambda: EMA(0.5),
        lambda: MixedPrecision("bf16"),
    ],
)
def test_callbacks_may_be_added_in_mid_fit(make):
    as_ordinary_with(lambda learn: learn.add_callbacks(make()), optimizer=MOMENTUM)


def test_the_norm_of_a_batch_that_is_cancelled_is_not_that_of_the_next():
    def cancel(learn):
        raise CancelBatch

    def hook(learn):
        if learn.training and (learn.epoch, learn.batch_idx) == (1, 2):
            learn.hook = learn.model.register_forward_hook(lambda *_: None)

    def unhook(learn):
        if learn.training and (learn.epoch, learn.batch_idx) == (1, 2):
            learn.hook.remove()

    assert_as_ordinary(
        lambda: GradientClip(1e-3),
        once(cancel, "after_backward"),
        lambda: on("before_batch", name="hook")(hook),
        lambda: on("after_batch", name="unhook")(unhook),
    )


@pytest.mark.parametrize("held_by", ["closure", "module", "object"])
def test_a_loss_that_reads_weights_by_itself_trains_them(held_by):
    class Penalty(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, preds, targets):
            return F.mse_loss(preds, targets) + 0.1 * self.model[4].weight.square().sum()

    class Holder:
        def __init__(self, model):
            self.model = model

        def __call__(self, preds, targets):
            return Penalty(self.model)(preds, targets)

    def fitted_with(step):
        model = net()
        loss_func = {
            "closure": lambda preds, targets: Penalty(model)(preds, targets),
            "module": Penalty(model),
            "object": Holder(model),
        }[held_by]
        learn = learner_of(step=step, model=model, loss_func=loss_func)
        learn.fit(N_EPOCHS)
        return learn

    ordinary, learn = fitted_with(ZeroGrad()), fitted_with(WholeStep("eager"))
    assert learn.callbacks[WholeStep].fallback is None
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert_close(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())


def test_hooks_of_layers_are_a_part_of_the_program_where_they_change_nothing_beside_it():
    def doubled():
        model = net()
        model[0].register_forward_hook(lambda module, inputs, output: output * 2)
        return model

    assert_as_ordinary(model=doubled)


def test_hooks_of_layers_that_keep_something_fall_back():
    seen = []
    model = net()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().sum()))
    assert_falls_back("hooks are registered on the module '0'", model=model)
    assert len(seen) == 2 * N_EPOCHS * 4  # once per step, in both fits


def test_a_hook_on_a_parameter_falls_back():
    learn = learner_of()
    learn.model[0].weight.register_hook(lambda grad: grad * 2)
    with pytest.warns(LearnerWarning, match="a hook is registered on the parameter '0.weight'"):
        learn.fit(1)


def test_a_hook_that_comes_in_mid_fit_where_one_was_removed_before_is_seen():
    model = net()
    model[0].weight.register_hook(lambda grad: grad).remove()  # an empty dict of hooks stays

    def register(learn):
        if learn.global_step == 6:
            learn.model[0].weight.register_hook(lambda grad: grad * 2)

    learn = learner_of(on("after_batch", name="register")(register), model=model)
    with pytest.warns(LearnerWarning, match="a hook is registered on the parameter '0.weight'"):
        learn.fit(N_EPOCHS)


def test_hooks_of_a_look_now_and_then_see_the_ordinary_step():
    learn = assert_as_ordinary(lambda: ActivationStats(every="3 steps"))
    assert len(learn.callbacks[ActivationStats].steps) == 4


class Layer(nn.Linear):
    """A layer that equals another one."""

    def __eq__(self, other):
        return isinstance(other, Layer)

    __hash__ = nn.Linear.__hash__

    def load(self, other):
        self.weight, self.bias = other.weight, other.bias


class Parts(nn.Module):
    """A model whose layers are in containers and in a list; another layer has a hook from the start."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Sequential(Layer(1, 3).double()), nn.Tanh())
        self.last, self.listed = Layer(3, 1).double(), [Layer(1, 1).double()]
        self.beside = [Layer(1, 3).double(), Layer(3, 1).double()]
        for each in self.beside:
            each.register_forward_hook(double)

    def forward(self, x):
        return self.listed[0](self.last(self.first(x)))


def double(_layer, _args, out):
    return 2 * out


def with_hook_inside(learn):
    model = learn.model
    model.beside[0].load(model.first[0][0])
    model.first[0][0] = model.beside[0]


def with_hook_at_the_top(learn):
    model = learn.model
    model.beside[1].load(model.last)
    model.last = model.beside[1]


def hook_of_a_listed_layer(learn):
    learn.model.listed[0].register_forward_hook(double)


def hook_of_the_loss(learn):
    learn.loss_func.register_forward_hook(double)


def hook_that_is_written_by_hand(learn):
    learn.model.last._forward_hooks[0] = double


def hook_in_a_new_table(learn):
    learn.model.last._forward_hooks = OrderedDict()  # as some do to remove all hooks
    learn.model.last.register_forward_hook(double)


def another_table_of_hooks(learn):
    learn.model.last._forward_hooks = OrderedDict({1: double})


@pytest.mark.parametrize(
    "change",
    [
        with_hook_inside,
        with_hook_at_the_top,
        hook_of_a_listed_layer,
        hook_of_the_loss,
        hook_that_is_written_by_hand,
        hook_in_a_new_table,
        another_table_of_hooks,
    ],
)
def test_a_hook_of_a_layer_that_is_added_during_a_fit_is_seen(change):
    as_ordinary_with(change, make_model=Parts, make_loss=nn.MSELoss)
