"""Shared modules, buffers and weights in the output of a compiled step."""

from __future__ import annotations

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    assert_as_ordinary,
    assert_falls_back,
    doubles,
    learner_of,
    net,
)
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Progress,
    WholeStep,
)


class Shared(nn.Module):
    """A module under two names, used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = nn.Linear(1, 1), nn.Dropout(0.3), nn.Linear(1, 1)
        self.again = self.first
        self.double()

    def forward(self, x):
        return self.last(self.drop(self.again(torch.tanh(self.drop(self.first(x))))))


class Replacing(nn.Module):
    """A model that replaces its buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1).double()
        self.register_buffer("mean", torch.zeros(1).double())

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.layer(x - self.mean)


class Writing(Replacing):
    """A model that writes to its buffer."""

    def forward(self, x):
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.1)
        return self.layer(x - self.mean)


def parametrized():
    model = net()
    nn.utils.parametrizations.weight_norm(model[5])
    return model


@pytest.mark.parametrize("model", [Shared, parametrized])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_shared_or_computed_parts_are_compiled_too(model, make):
    learn = assert_as_ordinary(model=model, optimizer=make)
    assert all(type(each) is nn.Parameter for each in learn.model.parameters())


def test_a_buffer_that_is_assigned_falls_back_and_one_that_is_written_to_does_not():
    assert_falls_back(r"the forward pass assigns a buffer .*write to it in place", model=Replacing())
    assert_as_ordinary(model=Writing)


def test_a_line_reports_that_a_program_is_compiled_where_progress_is_shown(capsys):
    def lines(step, *callbacks):
        learner_of(*callbacks, step=step, data=doubles(2) + doubles(2, 3)).fit(2)
        return [line for line in capsys.readouterr().out.splitlines() if "WholeStep" in line]

    assert lines(WholeStep("aot_eager"), Progress()) == [
        "WholeStep is compiling for float64[4, 1], float64[4, 1]; this takes seconds to minutes",
        "WholeStep is compiling for float64[3, 1], float64[3, 1]; this takes seconds to minutes",
    ]
    assert not lines(WholeStep("aot_eager"))
    assert not lines(WholeStep("eager"), Progress())


class GivesWeights(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(1, 1, dtype=torch.float64)

    def forward(self, x):
        return super().forward(x), self.weight


def test_an_output_may_be_a_weight():
    options = {
        "model": GivesWeights,
        "loss_func": lambda preds, y: F.mse_loss(preds[0], y),
    }
    learn = assert_as_ordinary(**options)
    assert learn.callbacks[WholeStep].fallback is None
