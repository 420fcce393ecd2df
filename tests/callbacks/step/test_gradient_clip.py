"""GradientClip has the weights of a hand-written loop with torch's functions, and measures the norm."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import (
    SAM,
    CancelStep,
    GradientAccumulation,
    GradientClip,
    GradientNorms,
    LearnerWarning,
    Metrics,
    Order,
    Recorder,
    StopOnNaNGradient,
    ZeroGrad,
    on,
)
from learner import Data, Learner


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def learner_with(*callbacks, model=None) -> Learner:
    data, optimizer = Data(line_batches(3)), partial(torch.optim.SGD, lr=0.1)
    defaults = (ZeroGrad, Metrics, Recorder)
    return Learner(model or net(), data, F.mse_loss, optimizer, callbacks, defaults=defaults)


def by_hand(clip, n_epochs: int) -> tuple[nn.Module, list[float]]:
    """Train by a plain loop that clips; return the weights and the norms."""
    model = net()
    optimizer, norms = torch.optim.SGD(model.parameters(), lr=0.1), []
    for inputs, targets in n_epochs * line_batches(3):
        F.mse_loss(model(inputs), targets).backward()
        norms.append(clip(model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
    return model, norms


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_clipped_by_norm_the_weights_are_those_of_a_loop_by_hand_with_the_same_bits(norm_type):
    clip = GradientClip(0.5, norm_type=norm_type)
    learn = learner_with(clip)
    row = learn.fit(2)[-1]
    bounded = partial(nn.utils.clip_grad_norm_, max_norm=0.5, norm_type=norm_type)
    model, norms = by_hand(lambda parameters: bounded(list(parameters)).item(), 2)
    assert same(learn.model, model)
    assert list(clip.norms) == norms[3:]
    assert row["unclipped_norm"] == pytest.approx(sum(norms[3:]) / 3)
    assert row["unclipped_norm_max"] == max(norms[3:])
    assert row["clipped"] == sum(norm > 0.5 for norm in norms[3:]) / 3


def test_clipped_by_value_the_weights_are_those_of_a_loop_by_hand_with_the_same_bits():
    learn = learner_with(GradientClip(max_value=0.1))
    row = learn.fit(2)[-1]
    assert same(learn.model, by_hand(partial(nn.utils.clip_grad_value_, clip_value=0.1), 2)[0])
    assert "clipped" not in row


def test_clipping_to_zero_leaves_the_weights_unchanged():
    learn = learner_with(GradientClip(0))
    learn.fit(1)
    assert same(learn.model, net())


def test_gradient_norms_measures_the_clipped_gradients(make_learner):
    row = learner_with(GradientNorms(), GradientClip(0.01)).fit(1)[0]
    assert row["grad_norm_max"] == pytest.approx(0.01, rel=1e-3)
    assert row["unclipped_norm"] > 0.01


def test_a_norm_that_is_not_finite_is_in_the_results():
    @on("after_backward")
    def spoil(learn):
        if learn.batch_idx == 2:
            learn.model[0].weight.grad[0] = math.nan

    row = learner_with(GradientClip(0.5), spoil).fit(1)[0]
    assert math.isnan(row["unclipped_norm_max"])
    assert math.isnan(row["unclipped_norm"])


def test_updates_that_are_left_out_are_not_measured():
    @on("before_step", order=Order.TRANSFORM)
    def leave_out(learn):
        if learn.batch_idx != 2:
            raise CancelStep

    learn = learner_with(GradientClip(0.5), leave_out)
    learn.fit(1)
    assert len(learn.callbacks.gradient_clip.norms) == 1


def test_frozen_and_unused_parameters_are_passed_over():
    model = net()
    model[0].requires_grad_(False)
    learn = learner_with(GradientClip(0.1), model=model)
    learn.fit(1)
    assert learn.callbacks.gradient_clip.norms[0] > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GradientClip(), "pass one of the two"),
        (lambda: GradientClip(1.0, max_value=1.0), "pass one of the two"),
        (lambda: GradientClip(-1.0), r"max_norm=-1.0\): max_norm must be a number, 0 or more"),
        (lambda: GradientClip(True), "max_norm=True"),
        (lambda: GradientClip("1"), "max_norm='1'"),
        (lambda: GradientClip(math.nan), "max_norm=nan"),
        (lambda: GradientClip(max_value=-0.1), "max_value=-0.1"),
        (lambda: GradientClip(1.0, norm_type=0), "norm_type"),
    ],
)
def test_a_wrong_setting_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_two_of_them_are_refused_with_both():
    learn = learner_with(GradientClip(1.0), GradientClip(max_value=1.0, name="other"))
    with pytest.raises(ValueError, match=r"max_norm=1.0.*max_value=1.0.*leave one of them out"):
        learn.fit(1)


class Walked(nn.Sequential):
    """A model that counts how often its parts are listed."""

    n = 0

    def named_modules(self, *args, **kwargs):
        Walked.n += 1
        return super().named_modules(*args, **kwargs)


KINDS = [partial(GradientClip, 0.5), GradientNorms, StopOnNaNGradient, partial(GradientAccumulation, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_does_not_list_the_parameters_again(kind):
    found = []
    for n_steps in (2, 6):
        Walked.n = 0
        learn = learner_with(kind(), model=Walked(*net()))
        learn.data = Data(line_batches(n_steps))
        learn.fit(1)
        found.append(Walked.n)
    assert found[0] == found[1]


def test_a_layer_that_is_replaced_between_two_steps_is_clipped():
    @on("before_batch")
    def replace(learn):
        if learn.batch_idx == 1:
            torch.manual_seed(1)
            learn.model[2] = nn.Linear(4, 1)
            learn.optimizer.param_groups[0]["params"] = list(learn.model.parameters())

    @on("after_step")
    def measure(learn):
        norms.append(math.hypot(*(each.grad.norm().item() for each in learn.model.parameters())))

    norms = []
    learner_with(GradientClip(0.01), replace, measure).fit(1)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


class Words(nn.Module):
    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(9, 3, sparse=sparse), nn.Linear(3, 1)

    def forward(self, words):
        return self.last(self.embedding(words).mean(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [GradientClip(0.1)],
        lambda: [GradientClip(0.1, norm_type=math.inf), GradientAccumulation(2)],
        lambda: [GradientClip(max_value=0.01)],
        lambda: [GradientNorms()],
        lambda: [StopOnNaNGradient()],
        lambda: [SAM()],
    ],
    ids=["norm", "largest", "value", "norms", "nan", "sam"],
)
def test_sparse_gradients_are_clipped_and_measured_as_dense_ones(make):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(9, (4, 5), generator=generator), torch.randn(4, 1, generator=generator))
        for _ in range(3)
    ]
    models = [Words(sparse=sparse) for sparse in (True, False)]
    rows = []
    for model in models:
        optimizer = partial(torch.optim.SGD, lr=0.1)
        learn = Learner(
            model, Data(batches), F.mse_loss, optimizer, make(), defaults=(ZeroGrad, Metrics, Recorder)
        )
        rows.append({name: value for name, value in learn.fit(2)[-1].items() if name != "seconds"})
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_only_gradients_of_weights_that_the_optimizer_holds_are_clipped():
    learn, expected = learner_with(GradientClip(0.1)), net()
    learn.optimizer = torch.optim.SGD(learn.model[2].parameters(), lr=0.1)
    with pytest.warns(LearnerWarning, match="2 of 4 trainable tensors"):
        learn.fit(2)
    optimizer = torch.optim.SGD(expected[2].parameters(), lr=0.1)
    for inputs, targets in 2 * line_batches(3):
        F.mse_loss(expected(inputs), targets).backward()
        nn.utils.clip_grad_norm_(expected[2].parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert all(map(torch.equal, learn.model.parameters(), expected.parameters()))
