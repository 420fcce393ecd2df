"""Fits with LeanStep, and the same fits with the ordinary step or by hand."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from callbacks import (
    LeanStep,
    Metrics,
    Recorder,
    ZeroGrad,
)
from learner import Data, Learner

N_EPOCHS, N_BATCHES = 3, 4
SETTINGS = [
    partial(SGD, lr=0.1),
    partial(SGD, lr=0.1, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9),
    partial(SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.01, maximize=True),
    partial(SGD, lr=0.1, momentum=0.9, foreach=True),
    partial(SGD, lr=0.1, momentum=0.9, fused=True),
    *(
        partial(each, **options)
        for each in (Adam, AdamW)
        for options in (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.1},
            {"lr": 0.01, "betas": (0.5, 0.6), "eps": 0.1},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "maximize": True, "weight_decay": 0.1, "amsgrad": True},
            {"lr": 0.01, "foreach": True},
            {"lr": 0.01, "fused": True},
        )
    ),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 3), nn.Linear(3, 1)
    )


def learner_of(*callbacks, optimizer=SETTINGS[2], model=None, step=LeanStep, **options) -> Learner:
    options.setdefault("loss_func", F.mse_loss)
    options.setdefault("defaults", (step, Metrics, Recorder))
    model = net() if model is None else model
    torch.manual_seed(1)
    return Learner(model, Data(line_batches(N_BATCHES)), optimizer=optimizer, callbacks=callbacks, **options)


def assert_same(one, other) -> None:
    """Nested states have the same keys and the same bits."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_fit(*make_callbacks, n_epochs=N_EPOCHS, **options) -> Learner:
    """A fit with `LeanStep` warns of nothing and ends as one with the ordinary step."""
    model = options.pop("model", net)
    ordinary = learner_of(*(make() for make in make_callbacks), step=ZeroGrad, model=model(), **options)
    ordinary.fit(n_epochs)
    learn = learner_of(*(make() for make in make_callbacks), model=model(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(n_epochs)
    assert learn.callbacks[LeanStep].fallback is None
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())
    assert_same(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    assert_same(learn.history["train_loss"], ordinary.history["train_loss"])
    return learn
