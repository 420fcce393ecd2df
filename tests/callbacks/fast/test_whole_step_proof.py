"""The comparison of the first steps with the ordinary step, and Inductor itself."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from compiled_steps import (
    MOMENTUM,
    N_BATCHES,
    N_EPOCHS,
    assert_as_ordinary,
    assert_close,
    doubles,
    fitted,
    learner_of,
    net,
)
from torch import nn
from torch.nn import functional as F

from callbacks import GradientAccumulation, GradientClip, WholeStep, ZeroGrad


def of_aten(make):
    """A backend that calls `make` with the graph of forward and backward in simple operations."""

    def backend(graph, inputs):
        from torch._dynamo.backends.common import aot_autograd

        return aot_autograd(fw_compiler=make)(graph, inputs)

    return backend


def broken(change):
    """A backend that makes a wrong program."""

    def make(graph, inputs):
        change(graph.graph)
        graph.recompile()
        return graph

    return of_aten(make)


class Gated(nn.Module):
    """A model where rounding decides which units pass, as it does for a few of very many ReLUs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(1, 64).double(), nn.Linear(64, 1).double()

    def forward(self, x):
        found = self.layer(x)
        rounding = (0.7 * found + 0.1 * found) - 0.8 * found
        return self.head(torch.where(rounding > 0, found, 0.0))


def rounding_otherwise(error=0.0):
    """A backend whose programs round in another way, and whose first gradient is too large by this share."""

    def make(graph, inputs):
        draws = torch.Generator().manual_seed(0)

        def call(*flat):
            signs = [torch.randn(each.shape, generator=draws, dtype=each.dtype).sign() for each in flat]
            eps = torch.finfo(torch.float64).eps
            outs = list(graph(*(each * (1 + eps * sign) for each, sign in zip(flat, signs, strict=True))))
            outs[2] = (1 + error) * outs[2]  # after predictions and loss
            return outs

        return call

    return of_aten(make)


def test_a_step_that_depends_on_rounding_is_not_an_error_of_the_program():
    learn = learner_of(step=WholeStep(rounding_otherwise()), model=Gated())
    for number in range(2):
        learn.fit(1)
        assert learn.callbacks[WholeStep].fallback is None
        assert (learn.callbacks[WholeStep].compile_seconds == 0) == (number == 1)  # the program is kept
    assert learn.global_step == 2 * N_BATCHES


@pytest.mark.parametrize("error", [0.01, -0.001])
def test_an_error_of_the_compiler_is_found_beside_other_rounding(error):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1)).double()
    learner_of(step=WholeStep(rounding_otherwise()), model=model).fit(1)
    with pytest.raises(RuntimeError, match=r"the gradient of '0\.weight' is wrong in"):
        learner_of(step=WholeStep(rounding_otherwise(error)), model=model).fit(1)


def without_slope(graph):
    """Leave out the derivative of tanh."""
    (slope,) = (node for node in graph.nodes if node.target is torch.ops.aten.tanh_backward.default)
    slope.replace_all_uses_with(slope.args[0])


def without_write(graph):
    """Lose a write to an input in place, as torch 2.13 does: the number of batches stays as it was."""
    counted = [node for node in graph.nodes if node.target is torch.ops.aten.add.Tensor and node.args[1] == 1]
    counted[0].replace_all_uses_with(counted[0].args[0])


@pytest.mark.parametrize(
    ("error", "tensor"),
    [(without_slope, "the gradient of '0.weight'"), (without_write, "num_batches_tracked")],
)
def test_a_wrong_program_is_an_error_that_names_the_tensor(error, tensor):
    learn = learner_of(step=WholeStep(broken(error)))
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(RuntimeError, match=tensor):
        learn.fit(1)
    assert_close(learn.model.state_dict(), before)


COMPILES = [
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"),
    pytest.mark.timeout(300),  # the first compile of a process took 30 s on a busy machine
]


def compiles(test):
    for mark in COMPILES:
        test = mark(test)
    return test


class Code:
    """A graph as Inductor makes it: it takes a list, which it empties."""

    def __init__(self, graph):
        def call(given):
            outs = graph(*given)
            given.clear()
            return outs

        self.current_callable = call


def wrapped(around, calls: list):
    """A backend that puts a wrapper around each graph, as torch does, and notes its calls."""

    def backend(graph, inputs):
        code = Code(graph)

        def call(*args):
            calls.append(args)
            return around(code.current_callable, args)

        call.__wrapped__ = code
        return call

    return backend


def replaced(code, args):
    return code([each.clone().requires_grad_(each.requires_grad) for each in args])


def copied(code, args):
    return [each.clone() for each in code([*args])]


def counted(code, args):
    torch.autograd.graph.increment_version(args[0])
    return code([*args])


@pytest.mark.parametrize("around", [replaced, copied, counted])
def test_a_wrapper_of_torch_that_does_something_is_called_in_each_step(around):
    calls: list = []
    step = WholeStep(wrapped(around, calls))
    learn = assert_as_ordinary(model=lambda: nn.Linear(1, 1).double(), step=step)
    assert len(calls) == learn.global_step


def test_a_wrapper_of_torch_that_does_nothing_is_called_once():
    calls: list = []
    step = WholeStep(wrapped(lambda code, args: code([*args]), calls))
    assert_as_ordinary(model=lambda: nn.Linear(1, 1).double(), step=step)
    assert len(calls) == 1


@compiles
def test_inductor_makes_a_program_that_ends_as_a_loop_by_hand():
    clip = GradientClip(0.5)
    learn = fitted(learner_of(clip, step=WholeStep()))
    model, optimizer = net(), None
    torch.manual_seed(1)
    optimizer = MOMENTUM(model.parameters())
    for inputs, targets in N_EPOCHS * doubles():
        F.mse_loss(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    assert_close(learn.model.state_dict(), model.state_dict())
    assert_close(learn.optimizer.state_dict(), optimizer.state_dict())
    assert learn.callbacks[WholeStep].compile_seconds > 0


@compiles
def test_inductors_programs_are_kept_for_the_next_fit():
    ordinary = learner_of(GradientAccumulation(2), step=ZeroGrad())
    ordinary.fit(2)
    learn = learner_of(GradientAccumulation(2), step=WholeStep())
    assert fitted(learn, 1).callbacks[WholeStep].compile_seconds > 0
    assert fitted(learn, 1).callbacks[WholeStep].compile_seconds == 0
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert_close(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
