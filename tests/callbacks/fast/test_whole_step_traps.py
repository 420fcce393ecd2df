"""Values that change in the middle of a fit: a compiled step uses the current ones, or falls back."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import compiled_steps
import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    N_EPOCHS,
    Conf,
    Settled,
    as_ordinary_with,
    assert_as_ordinary,
    assert_close,
    learner_of,
)
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    GradientClip,
    WholeStep,
    ZeroGrad,
    on,
)


def test_an_attribute_that_changes_gets_another_program():
    def swap(learn):
        learn.model[2].p = 0.0 if learn.epoch == 1 else 0.5

    learn = assert_as_ordinary(lambda: on("before_batch", name="swap")(swap))
    assert len(learn.callbacks[WholeStep].kinds) == 1


def test_a_tensor_of_the_loss_is_read_at_each_step():
    def loss_func():
        return Weighted()

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.ones(1, dtype=torch.float64)

        def forward(self, preds, targets):
            return (self.weight * (preds - targets) ** 2).mean()

    def change(learn):
        learn.loss_func.weight.mul_(0.5)

    models = []
    for step in (ZeroGrad(), WholeStep("eager")):
        learn = learner_of(on("before_train", name="change")(change), step=step, loss_func=loss_func())
        learn.fit(N_EPOCHS)
        models.append(learn.model)
    assert_close(models[0].state_dict(), models[1].state_dict())


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.mask = nn.Linear(1, 1).double(), torch.tensor(1.0)

    def forward(self, x):
        return self.layer(x) * self.mask


def swap_mask(learn):
    if learn.batch_idx == 3:
        learn.model.mask = torch.tensor(-2.0 - learn.epoch)


def reload_optimizer(learn):
    if learn.batch_idx == 3:
        learn.optimizer.load_state_dict(learn.optimizer.state_dict())
        learn.optimizer.param_groups[0]["lr"] = 0.3


def tighten_clip(learn):
    if learn.batch_idx == 3:
        learn.callbacks.gradient_clip.max_norm = 1e-3


@pytest.mark.parametrize("change", [swap_mask, reload_optimizer, tighten_clip])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_what_a_callback_replaces_in_mid_fit_is_used(change, make):
    assert_as_ordinary(
        lambda: GradientClip(0.5),
        lambda: on("before_batch", name="change")(change),
        model=Masked,
        optimizer=make,
    )


class Weighted:
    """A loss that is an object with a setting."""

    def __init__(self):
        self.weight = 1.0

    def __call__(self, preds, targets):
        return self.weight * F.mse_loss(preds, targets)


def enclosed():
    weight = 1.0

    def loss_func(preds, targets):
        return weight * F.mse_loss(preds, targets)

    def change():
        nonlocal weight
        weight = 0.5

    loss_func.change = change
    return loss_func


def weighted(preds, targets, weight=1.0):
    return weight * F.mse_loss(preds, targets)


@pytest.mark.parametrize(
    "change",
    [
        lambda learn: setattr(learn.model, "shift", 0.5),  # until now an attribute of the class
        lambda learn: setattr(learn.model, "late", 0.5),
        lambda learn: learn.model.scales.__setitem__(0, 0.5),
        lambda learn: learn.model.tables["x"].update(y=0.5),
        lambda learn: setattr(learn.model.conf, "scale", 0.5),
        lambda learn: learn.model.tensors.__setitem__(0, torch.tensor(0.5)),
        lambda learn: setattr(learn.model, "buffer", torch.tensor(0.5)),
        lambda learn: setattr(compiled_steps, "SCALE", 0.5),
        lambda learn: setattr(learn.model.layer, "forward", lambda x: x.sum(1, keepdim=True)),
    ],
)
def test_settings_are_read_from_every_place(change):
    as_ordinary_with(change)


def test_a_setting_of_a_class_is_read(monkeypatch):
    monkeypatch.setattr(Settled, "shift", 0.0)  # so that it is restored in the end

    def change(learn):
        Settled.shift = 0.5

    def reset():
        Settled.shift = 0.0
        return F.mse_loss

    as_ordinary_with(change, make_loss=reset)


class Table:
    """Settings of a whole training in a class, as many users have them."""

    scale = 1.0


class Reversed(torch.autograd.Function):
    """A function whose gradient is scaled by a setting of its class."""

    slope = 1.0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * Reversed.slope


settings = ModuleType("settings_of_a_user")


class Tabled(Settled):
    """A model that reads settings in a method that `forward` calls."""

    def forward(self, x):
        return self.mix(super().forward(x)) * self.late_scale

    @property
    def late_scale(self):
        return settings.late

    def mix(self, x):
        return Reversed.apply(x) * Table.scale * self.shared(settings)

    @staticmethod
    def shared(where):
        return settings.scale()


def shared_scale():
    return compiled_steps.SCALE


@pytest.mark.parametrize(
    ("holder", "name"), [(Table, "scale"), (Reversed, "slope"), (settings, "late"), (compiled_steps, "SCALE")]
)
def test_settings_of_classes_and_modules_that_the_code_names_are_read(holder, name, monkeypatch):
    monkeypatch.setattr(settings, "late", 1.0, raising=False)
    monkeypatch.setattr(settings, "scale", shared_scale, raising=False)

    def to(value):
        monkeypatch.setattr(holder, name, value)

    def as_ever():
        to(1.0)
        return F.mse_loss

    as_ordinary_with(lambda learn: to(0.5), make_loss=as_ever, make_model=Tabled)


data = Conf()  # as a script may call its data, and `forward` an attribute


class Detaching(nn.Linear):
    def forward(self, x):
        return super().forward(x.data)


def test_an_attribute_is_not_taken_for_a_global_variable_of_the_same_name(monkeypatch):
    n_compiled = []

    def backend(graph, inputs):
        n_compiled.append(1)
        return graph

    count = on("before_batch", name="count")(lambda learn: setattr(data, "scale", learn.global_step))
    monkeypatch.setattr(data, "scale", 1.0)  # so that it is restored in the end
    learner_of(count, step=WholeStep(backend), model=Detaching(1, 1).double()).fit(N_EPOCHS)
    assert len(n_compiled) == 1


@pytest.mark.parametrize(
    ("make_loss", "change"),
    [
        (Weighted, lambda learn: setattr(learn.loss_func, "weight", 0.5)),
        (lambda: Weighted().__call__, lambda learn: setattr(learn.loss_func.__self__, "weight", 0.5)),
        (enclosed, lambda learn: learn.loss_func.change()),
        (lambda: partial(weighted, weight=1.0), lambda learn: learn.loss_func.keywords.update(weight=0.5)),
    ],
)
def test_settings_of_a_loss_that_is_not_a_module_are_read(make_loss, change):
    as_ordinary_with(change, make_loss=make_loss)
