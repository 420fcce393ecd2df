"""Functions of progress against closed forms and torch's schedulers."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
)

from callbacks.schedule.annealers import (
    combine,
    constant,
    cos,
    exp,
    flat_cos,
    lin,
    one_cycle,
    poly,
    sgdr,
    warmup_cosine,
    wsd,
)

ALL = [
    *(constant(0.3), lin(0.1, 0.5), cos(0.1, 0.5), exp(0.1, 0.5), poly(0.1, 0.5, 2), flat_cos(0.5, 0.1)),
    *(one_cycle(0.1, 1.0, 0.01), sgdr(1.0, 0.1), warmup_cosine(1.0), wsd(1.0)),
    combine([0.5, 0.5], [lin(0, 1), cos(1, 0)]),
]


def over(annealer, n_steps: int) -> list[float]:
    return [annealer(step / (n_steps - 1), n_steps) for step in range(n_steps)]


def by_torch(make, n_steps: int, name: str = "lr") -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
    scheduler, found = make(optimizer), []
    for step in range(n_steps):
        found.append(optimizer.param_groups[0][name])
        optimizer.step()
        if step + 1 < n_steps:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("annealer", "start", "middle", "end"),
    [
        (constant(0.3), 0.3, 0.3, 0.3),
        (lin(0.1, 0.5), 0.1, 0.3, 0.5),
        (cos(0.1, 0.5), 0.1, 0.3, 0.5),
        (exp(0.1, 0.9), 0.1, 0.3, 0.9),
        (poly(0.0, 1.0, 3), 0.0, 0.125, 1.0),
        (flat_cos(1.0, 0.2, pct_start=0.5), 1.0, 1.0, 0.2),
        (one_cycle(0.1, 1.0, 0.01, pct_start=0.5), 0.1, 1.0, 0.01),
        (warmup_cosine(1.0, warmup=0.5, start=0.2, end=0.1), 0.2, 1.0, 0.1),
        (wsd(1.0, start=0.2, end=0.1), 0.2, 1.0, 0.1),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_values_at_beginning_middle_and_end(annealer, start, middle, end):
    assert [annealer(0.0), annealer(0.5), annealer(1.0)] == pytest.approx([start, middle, end])


def test_a_quarter_of_half_a_cosine():
    assert cos(1.0, 0.0)(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_wsd_falls_linearly_over_its_last_share():
    values = [wsd(1.0, warmup=0.2, decay=0.4)(progress) for progress in (0.1, 0.2, 0.6, 0.8, 0.9)]
    assert values == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.25])


@pytest.mark.parametrize("n_steps", [10, 40, 41])
@pytest.mark.parametrize("pct_start", [0.2, 0.3, 0.5])
def test_one_cycle_equals_that_of_torch_at_each_step(n_steps, pct_start):
    settings = {"total_steps": n_steps, "pct_start": pct_start, "base_momentum": 0.85, "max_momentum": 0.95}

    def make(optimizer):
        return OneCycleLR(optimizer, max_lr=0.3, **settings)

    rates = over(one_cycle(0.3 / 25, 0.3, 0.3 / 25 / 1e4, pct_start), n_steps)
    momentums = over(one_cycle(0.95, 0.85, 0.95, pct_start), n_steps)
    assert rates == pytest.approx(by_torch(make, n_steps), rel=1e-12, abs=1e-16)
    assert momentums == pytest.approx(by_torch(make, n_steps, "momentum"), rel=1e-12)


def test_sgdr_equals_that_of_torch_at_each_step():
    def make(optimizer):
        return CosineAnnealingWarmRestarts(optimizer, T_0=8, T_mult=2, eta_min=0.01)

    assert over(sgdr(0.1, 0.01, n_cycles=3), 56) == pytest.approx(by_torch(make, 56), rel=1e-12)


def test_a_part_may_be_any_function_of_progress():
    whole = combine([0.25, 0.75], [lambda progress: progress, lambda progress: 10 + progress])
    assert [whole(0.125), whole(0.25), whole(0.625), whole(1.0)] == pytest.approx([0.5, 1.0, 10.5, 11.0])


def test_progress_outside_the_range_uses_the_nearest_value():
    assert lin(0, 1)(-1) == 0
    assert lin(0, 1)(2) == 1


@pytest.mark.parametrize("annealer", ALL, ids=lambda annealer: annealer.name)
def test_each_can_be_copied_compared_and_read(annealer):
    copy = pickle.loads(pickle.dumps(annealer))
    assert copy == annealer
    assert [copy(each / 7) for each in range(8)] == [annealer(each / 7) for each in range(8)]
    assert repr(annealer).startswith(f"{annealer.name}(")


def test_other_arguments_are_another_annealer():
    assert lin(0, 1) != lin(0, 2)
    assert lin(0, 1) != cos(0, 1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lin("0", 1), TypeError, "'0' is not a number"),
        (lambda: cos(0, math.nan), ValueError, "not finite"),
        (lambda: exp(0, 1), ValueError, "use lin or cos"),
        (lambda: poly(0, 1, 0), ValueError, "above 0"),
        (lambda: combine([0.5], [lin(0, 1), lin(1, 0)]), ValueError, "1 shares for 2 parts"),
        (lambda: combine([0.5, 0.6], [lin(0, 1), lin(1, 0)]), ValueError, "add up to 1.1"),
        (lambda: combine([], []), ValueError, "0 shares"),
        (lambda: one_cycle(0, 1, 0, pct_start=1.0), ValueError, r"one_cycle\(pct_start=1.0\)"),
        (lambda: flat_cos(1, pct_start=-1), ValueError, r"flat_cos\(pct_start=-1\)"),
        (lambda: wsd(1, warmup=0.6, decay=0.6), ValueError, "their sum must be at most 1"),
        (lambda: warmup_cosine(1, warmup=2), ValueError, "between 0 and 1"),
        (lambda: sgdr(1, n_cycles=0), ValueError, "n_cycles must be 1 or more"),
    ],
)
def test_impossible_arguments_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("annealer", "make"),
    [
        (cos(0.1, 0.02), lambda each: CosineAnnealingLR(each, T_max=10, eta_min=0.02)),
        (lin(0.1, 0.02), lambda each: LinearLR(each, start_factor=1.0, end_factor=0.2, total_iters=10)),
        (exp(0.1, 0.1 * 0.8**10), lambda each: ExponentialLR(each, gamma=0.8)),
    ],
    ids=["cos", "lin", "exp"],
)
def test_annealers_between_two_values_equal_those_of_torch(annealer, make):
    assert over(annealer, 11) == pytest.approx(by_torch(make, 11), rel=1e-9)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(("n_steps", "pct_start"), [(10, 0.3), (57, 0.25), (1000, 0.4)])
def test_one_cycle_is_that_of_torch_along_lines_and_for_momentum_too(anneal, n_steps, pct_start):
    def make(optimizer):
        settings = {"max_lr": 0.3, "total_steps": n_steps, "pct_start": pct_start}
        return OneCycleLR(optimizer, **settings, anneal_strategy=anneal)

    rate = one_cycle(0.3 / 25, 0.3, 0.3 / 25 / 1e4, pct_start, anneal)
    momentum = one_cycle(0.95, 0.85, 0.95, pct_start, anneal)
    assert over(rate, n_steps) == pytest.approx(by_torch(make, n_steps), rel=1e-9, abs=1e-13)
    assert over(momentum, n_steps) == pytest.approx(by_torch(make, n_steps, "momentum"), rel=1e-9)


def test_one_cycle_along_something_else_is_refused():
    with pytest.raises(ValueError, match="'cos' or 'linear'"):
        one_cycle(0.1, 1.0, 0.0, anneal="sin")  # type: ignore[arg-type]
