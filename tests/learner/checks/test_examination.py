"""`learn.check()` finds problems on one batch and leaves no trace."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from examined import checksum, learner_of
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from upper.article import article, tensor_data

from callbacks import Callback, Order, on
from learner import Data
from learner.learner import DEFAULT_CALLBACKS


def test_the_article_has_no_problem_and_its_largest_stable_step_is_reported(capsys):
    report = article().check()
    assert report.ok
    assert not report.warnings
    assert report.facts["stable step"].startswith("lr up to 3.54e-05; lr is 0.28 times that")
    assert report.facts["one batch"] == "20 steps on it change its loss from 5619.2930 to 325.3086"
    assert report.facts["gradient"].startswith("reaches 1 of 1 trainable tensors")
    assert report.facts["items"].startswith("do not mix")
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert max(map(len, printed.splitlines())) <= 80


def test_of_several_processes_the_first_alone_prints(monkeypatch, capsys):
    learn = article()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert learn.check().ok
    learn.explain()
    assert capsys.readouterr().out == ""


def test_a_diverging_rate_of_the_article_raises_a_warning(capsys):
    report = article(lr=1e-4).check()
    assert report.ok
    assert any(
        "lr 0.0001 is above the largest stable step of this batch, 3.54e-05" in message
        for message in report.warnings
    )
    assert any("lower lr" in message and "on one batch" in message for message in report.warnings)


def test_a_report_in_a_notebook_adds_one_line_to_the_printed_text(capsys):
    assert repr(article().check()) == "<Report ok: 0 errors, 0 warnings>"


# Without a trace


class Counts(Callback):
    """A callback with state that changes the batch, and writes files if it is called."""

    order = Order.TRANSFORM
    state = ("n_seen",)

    def __init__(self):
        self.n_seen = 0

    def before_batch(self, learn):
        self.n_seen += 1
        learn.inputs[0].add_(0.0)
        random.random(), np.random.rand(), torch.rand(1)


class Learned(nn.Module):
    """A loss that counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, preds, targets):
        self.n_calls += 1
        return F.mse_loss(preds, targets)


def loader_data() -> Data:
    items = TensorDataset(torch.randn(20, 3), torch.randn(20, 1))
    generator = torch.Generator().manual_seed(3)
    return Data(DataLoader(items, 8, shuffle=True, generator=generator), DataLoader(items, 8, shuffle=False))


def deep_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 1))
    model[0].requires_grad_(False)
    return model


@pytest.mark.filterwarnings("ignore:training and validation use the same data")
@pytest.mark.parametrize("make_data", [tensor_data, loader_data])
@pytest.mark.parametrize("n_epochs", [0, 1], ids=["fresh", "trained"])
@pytest.mark.parametrize("make_optimizer", [torch.optim.Adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_check_leaves_no_trace(make_data, n_epochs, make_optimizer, capsys):
    learn = learner_of(
        deep_model(), make_data(), Learned(), make_optimizer, defaults=DEFAULT_CALLBACKS, callbacks=[Counts()]
    )
    learn.fit(n_epochs)
    learn.model[-1].weight.grad = torch.ones(1, 8)
    learn.model[2].eval()
    before = checksum(learn)
    report = learn.check()
    assert checksum(learn) == before
    assert report.ok, report.errors
    learn.fit(1)


def test_a_fit_after_check_ends_with_the_same_bits_as_one_without(capsys):
    models = []
    for checks in (True, False):
        torch.manual_seed(0)
        learn = learner_of(deep_model(), tensor_data(), defaults=DEFAULT_CALLBACKS)
        if checks:
            learn.check()
        learn.fit(2)
        models.append(learn.model)
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)


def test_dropout_does_not_hide_that_the_steps_lower_the_loss(capsys):
    for seed in range(5):
        torch.manual_seed(seed)
        report = learner_of(deep_model(), tensor_data()).check()
        assert not any("raise its loss" in message for message in report.warnings)


def test_a_callback_that_changes_the_batch_in_place_does_not_change_the_data(capsys):
    @on("before_batch")
    def add(learn):
        learn.inputs[0].add_(1.0)

    batch = (torch.zeros(8, 3), torch.ones(8, 1))
    learner_of(data=Data([batch], [batch]), callbacks=[add]).check()
    assert not batch[0].any()


def test_check_calls_no_callback_that_reports_decides_or_saves(capsys):
    events = []

    class Reports(Callback):
        order = Order.REPORT

        def before_fit(self, learn):
            events.append("before_fit")

        def before_batch(self, learn):
            events.append("before_batch")

    learner_of(callbacks=[Reports]).check()
    assert not events


def test_check_during_a_fit_is_refused():
    @on("after_batch")
    def check(learn):
        learn.check()

    with pytest.raises(RuntimeError, match="during a fit"):
        learner_of(callbacks=[check]).fit(1)
