"""Every public callback, found by introspection, and how to make it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

import callbacks
from callbacks import Callback
from callbacks.schedule.annealers import cos

Maker = Callable[[Path], Callback]


def trial() -> Any:
    from optuna.trial import FixedTrial  # not where only a GPU is tested

    return FixedTrial({})


#: How to make callbacks that need arguments, or would write into the working folder.
MAKERS: dict[str, Maker] = {
    "ActivationCheckpointing": lambda folder: callbacks.ActivationCheckpointing("model"),
    "Compile": lambda folder: callbacks.Compile("eager"),
    "GradientAccumulation": lambda folder: callbacks.GradientAccumulation(1),
    "GradientClip": lambda folder: callbacks.GradientClip(0.5),
    "CSVLogger": lambda folder: callbacks.CSVLogger(folder / "log.csv", append=True),
    "BlackBox": lambda folder: callbacks.BlackBox(folder / "blackbox"),
    "Checkpoint": lambda folder: callbacks.Checkpoint(folder / "run"),
    "JSONLines": lambda folder: callbacks.JSONLines(folder / "log.jsonl", append=True),
    "ScalarLogger": lambda folder: callbacks.ScalarLogger(lambda values, step: None),
    "TensorBoard": lambda folder: callbacks.TensorBoard(folder / "board"),
    "CutMix": lambda folder: callbacks.When(callbacks.CutMix(), start="99 epochs"),  # it needs images
    "OptunaPruning": lambda folder: callbacks.OptunaPruning(trial(), "train_loss"),
    "ShortEpoch": lambda folder: callbacks.ShortEpoch(2),
    "StopAfter": lambda folder: callbacks.StopAfter("5 steps"),
    "ValidateEvery": lambda folder: callbacks.ValidateEvery("1 step"),
    "WholeStep": lambda folder: callbacks.WholeStep("eager"),
    "When": lambda folder: callbacks.When(callbacks.GradientNorms(), start="1 step", every="2 steps"),
    "EarlyStopping": lambda folder: callbacks.EarlyStopping("train_loss"),
    "ParamScheduler": lambda folder: callbacks.ParamScheduler({"lr": cos(0.1, 0.0)}),
    "PlotSnapshots": lambda folder: callbacks.PlotSnapshots(n=2, path=folder / "steps.png"),
    "Profile": lambda folder: callbacks.Profile(folder / "profile", n_steps=1, wait=0, warm_up=0, top=0),
    "StopOnNaN": lambda folder: callbacks.StopOnNaN(),
    "TorchScheduler": lambda folder: callbacks.TorchScheduler(partial(ExponentialLR, gamma=0.9)),
}
#: Callbacks whose purpose is to read numbers in a batch, so they wait for the device at their interval.
#: tests/test_waits.py counts the waits.
READERS = {"LogRMSE", "PlotSnapshots", "Progress", "ValidateEvery"}

CALLBACKS = {
    name: thing
    for name in callbacks.__all__
    if isinstance(thing := getattr(callbacks, name), type)
    and issubclass(thing, Callback)
    and thing is not Callback
}


class Rich(nn.Linear):
    """A linear layer with parts that some callbacks need: hidden state, a recurrent layer, dropout."""

    def __init__(self, **options):
        super().__init__(1, 1, **options)
        self.rnn, self.dropout = nn.RNN(1, 1, batch_first=True, **options), nn.Dropout(0.5)

    def reset(self):
        """For `RNNReset`; there is no hidden state to reset."""

    def forward(self, input):  # noqa: A002 - as torch calls it
        return super().forward(self.dropout(self.rnn(input[:, None])[0])[:, 0])


def model_for(callback: Callback, **options) -> nn.Linear:
    needs_more = type(callback).__name__ in ("MCDropout", "RNNRegularizer", "RNNReset")
    return Rich(**options) if needs_more else nn.Linear(1, 1, **options)
