"""A subclass of the learner cannot override a private part of the loop by accident."""

from __future__ import annotations

import functools

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner


def make(kind, **options):
    torch.manual_seed(0)
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    defaults = (ZeroGrad, Metrics, Recorder)
    return kind(nn.Linear(1, 1), Data(line_batches()), F.mse_loss, optimizer, defaults=defaults, **options)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("loop", "another name, such as my_loop"),
        ("optimizer_given", "another name, such as my_optimizer_given"),
        ("_loss", "forward, compute_loss, backward or step"),
        ("_value", "another name, such as my_value"),
        ("_results", "an operation"),
    ],
)
@pytest.mark.parametrize("member", [lambda self: None, property(lambda self: None), staticmethod(print), 0])
def test_a_private_name_of_the_loop_is_refused_when_the_class_is_defined(name, fix, member):
    with pytest.raises(TypeError, match=f"Mine.{name} has the name of a private part") as caught:
        type("Mine", (Learner,), {name: member})
    assert fix in str(caught.value)


@pytest.mark.parametrize("first", [True, False])
def test_a_mixin_before_or_after_the_learner_is_refused_too(first):
    class Mixin:
        def loop(self): ...

    with pytest.raises(TypeError, match=r"Mine: Mixin\.loop"):
        type("Mine", (Mixin, Learner) if first else (Learner, Mixin), {})


def test_a_slot_of_that_name_is_refused():
    with pytest.raises(TypeError, match="_detached"):
        type("Mine", (Learner,), {"__slots__": ("_detached",)})


def test_a_method_that_assigns_a_private_attribute_is_refused():
    with pytest.raises(TypeError, match=r"compute_loss assigns self\._loss.*my_loss"):

        class Remembers(Learner):
            @torch.enable_grad()
            def compute_loss(self):
                super().compute_loss()
                self._loss = self.loss_grad.detach()


@pytest.mark.parametrize("name", ["epoch", "interrupted", "results", "loss_func", "batch"])
def test_a_method_that_replaces_a_value_of_the_loop_is_refused(name):
    with pytest.raises(TypeError, match=rf"Mine\.{name} is a method, but learn\.{name} is a value"):
        type("Mine", (Learner,), {name: lambda self: None})


@pytest.mark.parametrize("name", ["callbacks", "metrics", "device", "n_items"])
def test_a_property_may_be_overridden_by_a_property_only(name):
    with pytest.raises(TypeError, match=rf"Mine\.{name} is a method, but learn\.{name} is a value that the"):
        type("Mine", (Learner,), {name: lambda self: None})
    with pytest.raises(TypeError, match=rf"Mine\.{name} is \[3\], but learn\.{name} is a value that the"):
        type("Mine", (Learner,), {name: [3]})
    type("Mine", (Learner,), {name: property(lambda self: None)})


def test_a_private_attribute_incremented_or_assigned_in_a_nested_function_is_refused():
    with pytest.raises(TypeError, match=r"step assigns self\._value"):

        class Counts(Learner):
            def step(self):
                self._value += 1

    with pytest.raises(TypeError, match=r"step assigns self\.loop"):

        class Later(Learner):
            def step(self):
                def mark():
                    self.loop = 1

                mark()


def test_a_subclass_that_follows_the_rules_trains():
    class Helper:
        _loss = 1

    class Base(Learner):
        """A learner with private, special and mangled names, and private names of other objects."""

        _rank: int = 0
        _mark_of_mine = 3
        __value = 4
        _update = _batch = 5  # the loop's own methods are elsewhere
        marks_passes = True

        def __init__(self, *args, scale=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self._scale, self.__update = scale, 2
            self.helper = Helper()
            self.helper._loss = self.__value

        def __getattr__(self, name):
            if name == "answer":
                return 42
            raise AttributeError(name)

        def _update_discriminator(self): ...

        def compute_loss(self):
            super().compute_loss()
            self.loss_grad = self.loss_grad * self._scale

        @property
        def n_items(self):
            return len(self.targets)

        def fit(self, n_epochs, *args, **kwargs):
            return super().fit(n_epochs, *args, **kwargs)

        def stop(self, reason):
            super().stop(reason)

        @classmethod
        def small(cls):
            return make(cls)

    class Mixin:
        def _log_more(self): ...

    class Final(Mixin, Base):
        def step(self):
            super().step()

    learn = Final.small()
    learn.fit(2)
    assert (learn.global_step, learn.answer) == (6, 42)
    plain = make(Learner)
    plain.fit(2)
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_shapes_that_only_the_default_loss_would_broadcast_are_not_refused_in_a_subclass():
    class Flat(Learner):
        def compute_loss(self):
            self.loss_grad = self.loss_func(self.preds.flatten(), self.targets)

    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    data = Data([(inputs, targets.flatten()) for inputs, targets in line_batches()])
    learn = Flat(nn.Linear(1, 1), data, F.mse_loss, optimizer)
    learn.fit(1)
    assert learn.global_step == len(line_batches())
