"""A compiled step with operations that callbacks and subclasses override, and with slow programs."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from compiled_steps import (
    MOMENTUM,
    N_EPOCHS,
    as_ordinary_with,
    assert_close,
    assert_falls_back,
    doubles,
    learner_of,
    net,
)
from torch.nn import functional as F

from callbacks import Callback, LearnerWarning, WholeStep, ZeroGrad
from learner import Data, Learner


class Halved(Callback):
    """A callback that overrides how the model is run."""

    def forward(self, learn):
        learn.preds = 0.5 * learn.model(*learn.inputs)


def test_with_a_callback_that_overrides_forward_it_falls_back():
    ordinary = learner_of(Halved(), step=ZeroGrad())
    ordinary.fit(N_EPOCHS)
    learn = learner_of(Halved())
    with pytest.warns(LearnerWarning, match="because Halved overrides forward"):
        learn.fit(N_EPOCHS)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())


def test_with_a_callback_added_during_a_fit_that_overrides_forward_it_falls_back():
    learn = as_ordinary_with(lambda learn: learn.add_callbacks(Halved()), make_model=net)
    assert learn.callbacks[WholeStep].fallback == "Halved overrides forward"


class Scaled(Learner):
    def forward(self):
        super().forward()
        self.preds = 0.5 * self.preds


class Doubled(Learner):
    def compute_loss(self):
        super().compute_loss()
        self.loss_grad = 2 * self.loss_grad


class Clipped(Learner):
    def backward(self):
        super().backward()
        for each in self.model.parameters():
            each.grad.clamp_(-0.01, 0.01)


@pytest.mark.parametrize(
    ("kind", "name"), [(Scaled, "forward"), (Doubled, "compute_loss"), (Clipped, "backward")]
)
def test_in_a_subclass_of_the_learner_that_overrides_an_operation_it_falls_back(kind, name):
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        torch.manual_seed(1)
        learn = kind(net(), Data(doubles()), F.mse_loss, MOMENTUM, [step], defaults=())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn.fit(1)
        ends.append(learn.model.state_dict())
    assert learn.callbacks[WholeStep].fallback == f"{kind.__name__} overrides {name}"
    assert [f"{kind.__name__} overrides {name}" in str(each.message) for each in caught] == [True]
    assert_close(*ends)


def timed_fits(monkeypatch, extra):
    """Fits with a clock that moves by 1 whenever it is read, and by `extra` where the program runs."""
    now = [0.0]

    def read():
        now[0] += 1
        return now[0]

    def backend(graph, inputs):
        def call(*args):
            now[0] += extra
            return graph(*args)

        return call

    monkeypatch.setattr(time, "perf_counter", read)
    ordinary = learner_of(step=ZeroGrad(), data=doubles(20))
    ordinary.fit(1)
    learn = learner_of(step=WholeStep(backend), data=doubles(20))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(1)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    return learn, [str(each.message) for each in caught]


def test_a_program_that_is_slower_than_the_ordinary_step_is_left_once_with_the_reason(monkeypatch):
    learn, messages = timed_fits(monkeypatch, extra=0.5)
    assert len(messages) == 1
    assert "the program is slower: it takes 1.50 times as long as the ordinary step" in messages[0]
    assert learn.callbacks[WholeStep].fallback is not None


@pytest.mark.parametrize("extra", [0.0, 0.05])
def test_a_program_that_is_hardly_slower_is_used(monkeypatch, extra):
    learn, messages = timed_fits(monkeypatch, extra)
    assert not messages
    assert learn.callbacks[WholeStep].fallback is None


def test_where_several_processes_train_together_it_falls_back():
    class Together(Callback):
        distributed = True

    assert_falls_back("several processes train together", Together())
