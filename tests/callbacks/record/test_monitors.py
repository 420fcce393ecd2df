"""How training runs: what is measured of rates, speed and memory."""

from __future__ import annotations

import math
import time
from functools import partial

import pytest
import torch

from callbacks import (
    DeviceStats,
    EarlyStopping,
    GradientNorms,
    LearnerWarning,
    LRMonitor,
    Throughput,
    ValidateEvery,
    on,
)
from learner import Data, Learner


def test_every_group_has_its_rate_momentum_and_decay(make_learner):
    learn = make_learner(callbacks=[LRMonitor()])
    weight, bias = learn.model.parameters()
    learn.optimizer = torch.optim.AdamW(
        [{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2, "weight_decay": 0.0}],
        betas=(0.8, 0.9),
    )
    row = learn.fit(1)[0]
    found = {name: row[name] for name in row if name[-1] in "01"}
    assert found == {
        "lr_0": 0.1,
        "momentum_0": 0.8,
        "weight_decay_0": 0.01,
        "lr_1": 0.2,
        "momentum_1": 0.8,
        "weight_decay_1": 0.0,
    }


def test_a_slow_loader_is_seen_in_the_share_of_waiting(make_learner):
    def slowly():
        for _ in range(5):
            time.sleep(0.02)
            yield torch.rand(4, 1), torch.rand(4, 1)

    learn = make_learner(data=Data(slowly), callbacks=[Throughput()])
    row = learn.fit(1)[0]
    assert 0.5 < row["data_wait"] <= 1
    assert 0 < row["samples_per_second"] < 20 / 0.1


def test_a_slow_model_does_not_count_as_waiting():
    class Slow(torch.nn.Linear):
        def forward(self, inputs):
            time.sleep(0.02)
            return super().forward(inputs)

    batch = torch.rand(4, 1), torch.rand(4, 1)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(Slow(1, 1), Data([batch] * 5), torch.nn.functional.mse_loss, optimizer, [Throughput()])
    assert learn.fit(1)[0]["data_wait"] < 0.3


@pytest.mark.parametrize("is_first", [True, False])
def test_a_validation_within_the_pass_does_not_count(make_learner, is_first):
    @on("before_validate")
    def wait(learn):
        time.sleep(0.1)

    callbacks = [Throughput(), ValidateEvery("1 step")]
    learn = make_learner(6, callbacks=[*(callbacks if is_first else callbacks[::-1]), wait])
    row = learn.fit(1)[0]  # with five validations in the pass
    assert row["data_wait"] < 0.5
    assert row["samples_per_second"] > 24 / 0.4


def test_tokens_and_the_share_of_the_peak_are_measured():
    batches = [(torch.rand(n, 30), torch.rand(n, 20)) for n in (8, 8, 4)]
    speed = Throughput(tokens=lambda batch: batch[0].numel(), peak_flops=1e9)
    sgd = partial(torch.optim.SGD, lr=0.1)
    data = Data(batches, batches[:1])
    row = Learner(torch.nn.Linear(30, 20), data, torch.nn.functional.mse_loss, sgd, [speed]).fit(2)[-1]
    # forward and the gradient of the weights: two products of 2 * 30 * 20 operations per item
    by_hand = row["samples_per_second"] * 4 * 30 * 20 / 1e9
    assert row["flops_utilization"] == pytest.approx(by_hand)
    assert row["tokens_per_second"] == pytest.approx(30 * row["samples_per_second"])


@pytest.mark.parametrize(
    "options", [{"tokens": 3}, {"peak_flops": 0}, {"peak_flops": "fast"}, {"peak_flops": math.inf}]
)
def test_settings_of_the_speed_that_cannot_be_used_are_refused(options):
    with pytest.raises((TypeError, ValueError), match=f"Throughput\\({next(iter(options))}="):
        Throughput(**options)


def test_memory_is_measured_and_can_be_monitored(make_learner):
    learn = make_learner(callbacks=[DeviceStats(), EarlyStopping("memory_mib", patience=5)])
    assert learn.fit(1)[0]["memory_mib"] > 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_of_a_gpu_is_measured(make_learner):
    learn = make_learner(callbacks=[DeviceStats()])
    learn.model.cuda()
    assert learn.fit(1)[0]["device_memory_mib"] > 0


def test_the_norm_of_the_gradients_is_that_of_all_of_them_in_a_row(make_learner):
    found = []

    @on("before_step")
    def measure(learn):
        found.append(torch.cat([each.grad.flatten() for each in learn.model.parameters()]).norm().item())

    row = make_learner(callbacks=[GradientNorms(), measure]).fit(1)[0]
    assert row["grad_norm"] == pytest.approx(sum(found) / 3, rel=1e-6)
    assert row["grad_norm_max"] == pytest.approx(max(found), rel=1e-6)


def test_a_norm_that_is_nan_is_not_hidden(make_learner):
    @on("after_backward")
    def spoil(learn):
        if learn.batch_idx == 1:
            learn.model.weight.grad.fill_(torch.nan)

    with pytest.warns(LearnerWarning, match="train_loss is NaN because of 1 of 3 batches"):
        row = make_learner(callbacks=[GradientNorms(), spoil]).fit(1)[0]
    assert row["grad_norm"] != row["grad_norm"]
    assert row["grad_norm_max"] != row["grad_norm_max"]
