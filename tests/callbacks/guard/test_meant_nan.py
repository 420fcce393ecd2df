"""Intended NaN and infinity do not end a run; those that the training produces do."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Checkpoint, on
from learner import Data, Learner

NAN, INF = math.nan, math.inf


class Holding(nn.Module):
    """A regression with another attribute, which `use` may fill or read."""

    def __init__(self, use=lambda model, x, y: y, **tensors):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.use = nn.Linear(3, 1), use
        for name, each in tensors.items():
            if isinstance(each, nn.Parameter):
                self.register_parameter(name, each)
            else:
                self.register_buffer(name, each)

    def forward(self, x):
        return self.use(self, x, self.layer(x))


def fill_bank(model, x, y):
    model.bank[: len(x) // 2] = y.detach()[: len(x) // 2, 0]
    return y


def track_range(model, x, y):
    model.lowest = torch.minimum(model.lowest, y.detach().min())
    model.running_max = torch.maximum(model.running_max, y.detach().max())
    return y


def first_of_scales(model, x, y):
    return y * model.scales[0]


def late_marker(model, x, y):
    if not hasattr(model, "seen"):
        model.register_buffer("seen", torch.full((2,), NAN))
    return y


MEANT = {
    "a marker for not yet": lambda: Holding(last_seen=torch.full((4,), NAN)),
    "a memory bank that is filled by and by": lambda: Holding(fill_bank, bank=torch.full((8,), NAN)),
    "a mask of -inf": lambda: Holding(mask=torch.full((3, 3), -INF).triu(1)),
    "extremes that begin at infinity": lambda: Holding(
        track_range, lowest=torch.tensor(INF), running_max=torch.tensor(-INF)
    ),
    "a frozen placeholder": lambda: Holding(
        absent=nn.Parameter(torch.full((2, 2), NAN), requires_grad=False)
    ),
    "trained numbers with padding": lambda: Holding(
        first_of_scales, scales=nn.Parameter(torch.tensor([1.0, NAN, INF]))
    ),
    "a marker that the first batch adds": lambda: Holding(late_marker),
    "complex numbers that are absent": lambda: Holding(spectrum=torch.full((2,), complex(NAN, 0.0))),
}


def learner_of(model, tmp_path, *others):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    data = Data(list(zip(x.split(8), x.sum(1, keepdim=True).split(8), strict=True)))
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return Learner(model, data, F.mse_loss, optimizer, [*others, Checkpoint(tmp_path / "run")])


@pytest.mark.parametrize("name", MEANT)
def test_intended_nan_does_not_end_a_run_and_is_resumed(name, tmp_path):
    learn = learner_of(MEANT[name](), tmp_path)
    learn.fit(2)
    again = learner_of(MEANT[name](), tmp_path)
    if name == "a marker that the first batch adds":
        again.model(torch.ones(1, 3))
    again.fit(3, resume="auto")
    assert len(again.history) == 3


def spoil(place, value=NAN):
    def act(learn):
        if learn.epoch == 1:
            with torch.no_grad():
                learn.model.get_parameter(place)[0] = value

    return on("after_train", name="spoil")(act)


@pytest.mark.parametrize("value", [NAN, INF])
def test_trained_weights_that_become_bad_end_the_run(value, tmp_path):
    learn = learner_of(Holding(last_seen=torch.full((4,), NAN)), tmp_path, spoil("layer.weight", value))
    with pytest.raises(FloatingPointError, match=r"'layer\.weight' contains NaN"):
        learn.fit(3)


def test_one_more_nan_than_intended_ends_the_run(tmp_path):
    model = Holding(first_of_scales, scales=nn.Parameter(torch.tensor([1.0, NAN])))
    with pytest.raises(FloatingPointError, match=r"'scales' contains NaN"):
        learner_of(model, tmp_path, spoil("scales")).fit(3)


def test_statistics_of_batch_norm_that_become_bad_end_the_run(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    act = on("after_train", name="act")(lambda learn: learn.model[1].running_var.fill_(NAN))
    with pytest.raises(FloatingPointError, match=r"'1\.running_var' contains NaN"):
        learner_of(model, tmp_path, act).fit(1)


def test_nan_in_inputs_and_targets_that_the_loss_ignores_is_not_an_error(tmp_path):
    def masked(preds, targets):
        known = targets.isfinite()
        return (torch.where(known, preds - targets, 0.0) ** 2).sum() / known.sum()

    x = torch.randn(16, 3)
    x[0, 0] = NAN
    y = x.sum(1, keepdim=True)
    y[3] = NAN
    model = Holding(lambda model, x, y: y.nan_to_num(0.0))
    learn = Learner(
        model, Data([(x.nan_to_num(0.0), y)]), masked, partial(torch.optim.SGD, lr=0.05),
        [Checkpoint(tmp_path / "run")],
    )  # fmt: skip
    learn.fit(2)
    assert len(learn.history) == 2
