"""Measuring the cost of a step changes nothing, and works with everything."""

from __future__ import annotations

import copy
import random
import zlib
from functools import partial

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from upper.naps import NAPS, Sleeper, Sleepy, make

from callbacks import (
    EMA,
    ActivationStats,
    Callback,
    Checkpoint,
    ClosureStep,
    CSVLogger,
    EarlyStopping,
    GradientAccumulation,
    LeanStep,
    LogRMSE,
    MixedPrecision,
    Order,
    OverfitBatch,
    ShortEpoch,
    StopAfter,
    TorchScheduler,
    ValidateEvery,
)
from learner import Data, Learner
from learner.tools.cost_runs import run_reads
from learner.tools.meter import Meter, Reads, TimedLoop


@pytest.fixture(autouse=True)
def no_naps():
    NAPS.clear()


def traces(learn: Learner) -> list:
    """All state that measuring could change."""
    return [
        [each.detach().clone() for each in (*learn.model.parameters(), *learn.model.buffers())],
        copy.deepcopy(learn.optimizer.state_dict()),
        [torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()],
        learn.data.train.generator.get_state(),
        {key: id(value) for key, value in vars(learn).items() if key != "_results"},
        [learn.global_step, learn.n_samples, learn.n_fits, learn.epoch, len(learn.history)],
        [module.training for module in learn.model.modules()],
        [len(module._forward_hooks) for module in learn.model.modules()],
        [id(callback) for callback in learn.callbacks],
        [
            {
                key: id(value)
                for key, value in vars(callback).items()
                if not callback.state or (key[0] != "_" and key not in callback.state)
            }
            for callback in learn.callbacks
        ],
        {callback.name: zlib.crc32(str(callback.state_dict()).encode()) for callback in learn.callbacks},
        [each.grad for each in learn.model.parameters()],
        dict(learn.results),
    ]


def test_no_trace_is_left(tmp_path, capsys):
    learn = make(
        Sleeper(),
        LogRMSE(),
        EMA(0.9),
        ActivationStats(),
        Checkpoint(tmp_path / "run"),
        CSVLogger(tmp_path / "log.csv"),
        EarlyStopping(patience=1),
    )
    learn.fit(1)
    capsys.readouterr()
    before, files = traces(learn), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    cost = learn.cost(20)
    torch.testing.assert_close(traces(learn), before, rtol=0, atol=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    assert capsys.readouterr().out == ""
    assert list(cost.not_measured) == ["csv_logger", "checkpoint"]
    assert "early_stopping" in cost.callbacks


def test_training_after_measuring_has_the_bits_of_training_without():
    plain = make(EMA(0.9))
    plain.fit(2)
    measured = make(EMA(0.9))
    measured.cost(20)
    measured.fit(2)
    for one, other in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.history["valid_loss"] == measured.history["valid_loss"]


def test_an_error_changes_nothing_and_has_its_place():
    class Fails(Callback):
        def after_backward(self, learn):
            raise ZeroDivisionError

    learn = make(Fails())
    before = traces(learn)
    with pytest.raises(ZeroDivisionError) as caught:
        learn.cost(20)
    torch.testing.assert_close(traces(learn), before, rtol=0, atol=0)
    notes = " ".join(caught.value.__notes__)
    assert "in callback Fails.after_backward" in notes
    assert "learn.cost()" in notes


@pytest.mark.parametrize(
    "callback",
    [
        GradientAccumulation(3),
        LeanStep(),
        MixedPrecision("bf16"),
        ShortEpoch(1),
        OverfitBatch(),
        StopAfter("3 steps"),
        ValidateEvery("2 steps"),
        TorchScheduler(partial(torch.optim.lr_scheduler.StepLR, step_size=1)),
    ],
    ids=lambda callback: callback.name,
)
def test_the_measurement_works_with(callback):
    cost = make(callback).cost(20)
    assert cost.step > 0
    assert cost.n_steps >= 20


def test_an_optimizer_that_needs_a_closure_has_no_bare_loop():
    cost = make(ClosureStep(), optimizer=partial(torch.optim.LBFGS, max_iter=2)).cost(20)
    assert cost.bare is None
    assert cost.over_bare is None
    assert "No bare loop to compare with: LBFGS needs a closure." in str(cost)


def test_one_batch_per_epoch():
    inputs = torch.rand(20, 3)
    cost = make(data=Data([(inputs, inputs.sum(1, keepdim=True))])).cost(20)
    assert 0 < cost.data_wait < cost.step


def test_the_table_is_narrow_and_complete():
    table = str(make(Sleeper(), data_set=Sleepy).cost(20))
    assert max(map(len, table.splitlines())) <= 80
    for part in ("data wait", "forward", "  sleeper", "the loop itself", "A bare loop's step", "num_workers"):
        assert part in table


def test_reads_of_a_device_are_counted_for_the_callback_that_reads():
    class Reader(Callback):
        def after_loss(self, learn):
            learn.loss.item()
            float(learn.preds.detach().sum())

    learn, meter = make(Reader(), defaults=()), Meter()
    learn.loop = TimedLoop(learn.loop, meter)
    learn.loop.connect(learn, learn.callbacks)
    learn.training = True
    with Reads(meter, torch.device("cpu")):
        for event in ("place", "forward", "compute_loss"):
            learn.batch = learn.inputs = torch.rand(8, 3)
            learn.targets = torch.rand(8, 1)
            learn.loop.do[event](learn)
        learn.loop.note_loss(learn)
        learn.loop.on["after_loss"](learn)
    meter.end_step()
    assert meter.reads == [{("callback", "reader"): 2}]


def test_run_reads_counts_the_reads_of_each_step():
    class Reader(Callback):
        def after_batch(self, learn):
            learn.loss.item()

        def after_epoch(self, learn):
            learn.loss.item()

    found = run_reads(make(Reader()), {}, torch.device("cpu"))
    assert [step.get(("callback", "reader")) for step in found.reads] == [1] * len(found.reads)


@pytest.mark.parametrize("n_steps", [0, 19, 30.0, True, "50"])
def test_an_invalid_number_of_steps_is_refused(n_steps):
    with pytest.raises(ValueError, match="whole number, 20 or more"):
        make().cost(n_steps)


def test_a_learner_that_cannot_be_measured_is_refused():
    class Locked(Callback):
        def __init__(self):
            super().__init__()
            self.pipe = (each for each in ())

    with pytest.raises(TypeError, match=r"cannot be copied.*learn.without\('locked'\)"):
        make(Locked()).cost(20)

    class Inside(Callback):
        order = Order.MEASURE

        def after_batch(self, learn):
            learn.cost(20)

    with pytest.raises(RuntimeError, match="called during a fit"):
        make(Inside()).fit(1)
    with pytest.raises(TypeError, match="no optimizer"):
        Learner(nn.Linear(1, 1), Data([torch.rand(2, 1)]), F.mse_loss).cost()
