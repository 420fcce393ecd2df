"""How often each callback waits for the device in a fit: never in a batch, except where it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from made_callbacks import CALLBACKS, MAKERS, READERS, model_for
from test_every_callback import learner_with
from tiny import line_batches
from torch import nn
from waits import Waits, count_waits, fit_strictly

import callbacks
from callbacks import Callback, on
from callbacks.record import progress
from learner import Data

Maker = Callable[[Path], Callback]

#: Callbacks whose arguments in the other tests make them do little or end early.
LIVELY: dict[str, Maker] = {
    "CutMix": lambda folder: callbacks.CutMix(),
    "ShortEpoch": lambda folder: callbacks.ShortEpoch(99),
    "StopAfter": lambda folder: callbacks.StopAfter("999 steps"),
    "SWA": lambda folder: callbacks.SWA(0.0),
}
#: Other settings that must not wait more often than the default.
VARIANTS: dict[str, Maker] = {
    "GradientAccumulation(2)": lambda folder: callbacks.GradientAccumulation(2),
    "GradientAccumulation(n_samples=8)": lambda folder: callbacks.GradientAccumulation(n_samples=8),
    "GradientClip(max_value=0.5)": lambda folder: callbacks.GradientClip(max_value=0.5),
    "SAM(adaptive=True)": lambda folder: callbacks.SAM(adaptive=True),
    "EMA(buffers='average')": lambda folder: callbacks.EMA(buffers="average"),
}
#: Callbacks that must wait: how to make them, and their waits in N_BATCHES of training and a validation.
N_BATCHES = 9
WAITING: dict[str, tuple[Maker, int]] = {
    "LogRMSE": (lambda folder: callbacks.LogRMSE("3 steps"), 3),
    "LogRMSE each epoch": (lambda folder: callbacks.LogRMSE("1 epoch"), 0),
    "ValidateEvery": (lambda folder: callbacks.ValidateEvery("3 steps"), 2),  # the third is the epoch's own
    "PlotSnapshots": (
        lambda folder: callbacks.PlotSnapshots(n=2, path=folder / "a.png"),
        9,
    ),  # its points
    "ScalarLogger": (lambda folder: callbacks.ScalarLogger(lambda numbers, step: None, "3 steps"), 3),
    "JSONLines": (lambda folder: callbacks.JSONLines(folder / "log.jsonl", every="3 steps"), 3),
    "TensorBoard": (lambda folder: callbacks.TensorBoard(folder / "board", "3 steps"), 3),
    "StopOnNaN": (lambda folder: callbacks.StopOnNaN(wait_every=1), N_BATCHES),
    "StopOnNaNGradient": (lambda folder: callbacks.StopOnNaNGradient(wait_every=1), N_BATCHES),
    "MixedPrecision": (lambda folder: callbacks.MixedPrecision("fp16"), N_BATCHES + 1),  # and its first scale
}


def make(name: str, folder: Path) -> Callback:
    maker = LIVELY.get(name) or VARIANTS.get(name) or MAKERS.get(name)
    return maker(folder) if maker else CALLBACKS[name]()


def count(callback: Callback, n_batches: int = N_BATCHES, n_valid: int = N_BATCHES) -> Waits:
    """The waits of one epoch with `n_batches` training batches and `n_valid` validation batches."""
    model, train, valid = model_for(callback, device="meta"), line_batches(n_batches), line_batches(n_valid)
    if isinstance(callback, callbacks.CutMix):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, device="meta"))
        train, valid = ([(torch.rand(4, 1, 4, 4), each) for _, each in part] for part in (train, valid))
    learn, waits = learner_with(callback, model=model, data=Data(train, valid)), Waits()
    refused = isinstance(
        callback, callbacks.Checkpoint
    )  # its save at the end fails, because there are no values
    with pytest.raises(TypeError, match="without values") if refused else nullcontext():
        count_waits(learn, waits)
    assert learn.n_samples == n_batches * 4, (
        "the fit has not trained on all items, so the count proves nothing"
    )
    return waits


#: Torch compiles no program while a mode watches its kernels, so that WholeStep takes the ordinary step here.
no_program = pytest.mark.filterwarnings("ignore:WholeStep uses the ordinary step")


@pytest.fixture(scope="module", params=[*sorted(set(CALLBACKS) - READERS), *VARIANTS])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def long_pass(name, tmp_path_factory) -> Waits:
    """The waits in passes of 11 batches."""
    return count(make(name, tmp_path_factory.mktemp("long")), 11, 11)


@no_program
def test_no_batch_event_waits_for_the_device(long_pass):
    assert long_pass.in_batches == []


@no_program
def test_a_longer_pass_waits_no_more_often(name, long_pass, tmp_path):
    assert long_pass.found == count(make(name, tmp_path), 3, 3).found


def learner_for(callback: Callback, device: str, n_batches: int) -> Any:
    model, train = model_for(callback), line_batches(n_batches)
    if isinstance(callback, callbacks.CutMix):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
        train = [(torch.rand(4, 1, 4, 4), each) for _, each in train]
    learn = learner_with(callback, model=model, data=Data(train, train[:2]))
    if callbacks.DevicePlacement not in learn.callbacks:
        learn.add_callbacks(callbacks.DevicePlacement(device))
    return learn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@no_program
@pytest.mark.parametrize("name", [*sorted(set(CALLBACKS) - READERS), *VARIANTS])
def test_on_cuda_no_batch_waits(name, tmp_path):
    fit_strictly(learner_for(make(name, tmp_path), "cuda", N_BATCHES), torch.cuda.set_sync_debug_mode)


@pytest.mark.parametrize("name", ["CutMix", "DevicePlacement", "RNNReset"])
def test_each_batch_of_the_second_epoch_is_watched(name, tmp_path):
    modes: list[str] = []
    fit_strictly(learner_for(make(name, tmp_path), "cpu", 3), modes.append)
    assert modes == ["default", "default"] * 5 + ["error", "default"] * 5


@pytest.mark.parametrize("name", WAITING)
def test_those_that_must_wait_do_so_at_their_interval(name, tmp_path):
    maker, n_waits = WAITING[name]
    waits = count(maker(tmp_path), n_valid=2)
    assert len(waits.in_batches) == n_waits, waits.in_batches


def test_the_bar_waits_only_where_it_is_drawn(monkeypatch, capsys):
    monkeypatch.setattr(progress, "can_show_a_bar", lambda: True)
    for gap, n_waits in (
        (0.0, 2 * N_BATCHES),
        (math.inf, 0),
    ):  # inf: drawn once, before the batches
        monkeypatch.setattr(progress, "REFRESH", gap)
        assert len(count(callbacks.Progress()).in_batches) == n_waits


def test_the_waits_of_every_callback_that_reads_numbers_are_known():
    assert set(WAITING) | {"Progress"} >= READERS


@pytest.mark.parametrize(
    "wait",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss),
        lambda loss: bool(loss > 0),
        lambda loss: loss.tolist(),
        lambda loss: loss.cpu(),
        lambda loss: loss.to("cpu", torch.float64),
        lambda loss: loss.to("cpu", non_blocking=True),
        lambda loss: torch.empty(()).copy_(loss),
        lambda loss: torch.equal(loss, loss),
        lambda loss: f"{loss}",
        lambda loss: repr(loss),
        lambda loss: torch.tensor(0.5, device=loss.device),
        lambda loss: torch.as_tensor([0.5], device=loss.device),
        lambda loss: torch.rand(3).to(loss.device),
        lambda loss: torch.empty_like(loss).copy_(torch.tensor(0.5)),
        lambda loss: loss.reshape(1)[[0]],
    ],
)
def test_a_wait_is_counted(wait):
    @on("after_batch")
    def waiting(learn: Any):
        wait(learn.loss)

    assert len(count(waiting).in_batches) == 2 * N_BATCHES


@pytest.mark.parametrize(
    "work",
    [
        lambda loss: loss * 2 + torch.tensor(0.5),
        lambda loss: torch.full((), 0.5, device=loss.device),
        lambda loss: torch.where(loss > 0, loss, 0),
        lambda loss: loss.to(torch.float64),
        lambda loss: loss.to(loss.device),
        lambda loss: torch.rand(3).to(loss.device, non_blocking=True),
        lambda loss: loss.reshape(1)[0:1],
    ],
)
def test_work_on_the_device_does_not_wait(work):
    @on("after_batch")
    def working(learn: Any):
        work(learn.loss)

    assert count(working).in_batches == []


def test_what_needs_values_in_another_way_is_an_error():
    @on("after_batch")
    def look(learn: Any):
        learn.loss.reshape(1).nonzero()

    with pytest.raises(NotImplementedError, match="nonzero"):
        count(look)
