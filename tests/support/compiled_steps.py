"""Fits with `WholeStep`, and the same fits with the ordinary step or by hand."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from callbacks import LearnerWarning, Metrics, Recorder, WholeStep, ZeroGrad, on
from learner import Data, Learner

N_EPOCHS, N_BATCHES = 3, 4


SETTINGS = [
    partial(SGD, lr=0.1),
    partial(SGD, lr=0.1, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9),
    partial(SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.01, maximize=True),
    *(
        partial(each, **options)
        for each in (Adam, AdamW)
        for options in (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.1, "betas": (0.5, 0.6), "eps": 0.1},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "maximize": True, "weight_decay": 0.1, "foreach": True},
        )
    ),
]


MOMENTUM, ADAM = SETTINGS[2], SETTINGS[6]


def net(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 3), nn.Linear(3, 1)
    ).to(dtype)


def doubles(n_batches=N_BATCHES, batch_size=4) -> list:
    """Batches in float64, where rounding errors are far smaller than any wrong result."""
    return [(inputs.double(), targets.double()) for inputs, targets in line_batches(n_batches, batch_size)]


def learner_of(*callbacks, optimizer=MOMENTUM, model=None, step=None, data=None, **options) -> Learner:
    options.setdefault("loss_func", F.mse_loss)
    options.setdefault("defaults", (Metrics, Recorder))
    step = WholeStep("eager") if step is None else step
    model = net() if model is None else model
    torch.manual_seed(1)
    data = data if isinstance(data, Data) else Data(doubles() if data is None else data)
    return Learner(model, data, optimizer=optimizer, callbacks=[step, *callbacks], **options)


def by_hand(make, model=None, batches=None, n_epochs=N_EPOCHS):
    model = net() if model is None else model
    torch.manual_seed(1)
    optimizer = make(model.parameters())
    for inputs, targets in n_epochs * (doubles() if batches is None else batches):
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def assert_close(one, other, where="") -> None:
    """Nested states have the same keys in the same order, and the same numbers up to rounding."""
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_close(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5), where
    else:
        assert one == other, where


def fitted(learn, n_epochs=N_EPOCHS, fallback=None) -> Learner:
    """The learner after a fit without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(n_epochs)
    assert learn.callbacks[WholeStep].fallback is fallback
    return learn


def assert_as_ordinary(*make_callbacks, model=net, n_epochs=N_EPOCHS, **options) -> Learner:
    """A fit with `WholeStep` has the results of a fit with the ordinary step."""
    step = options.pop("step", None)
    ordinary = learner_of(*(make() for make in make_callbacks), step=ZeroGrad(), model=model(), **options)
    ordinary.fit(n_epochs)
    learn = fitted(
        learner_of(*(make() for make in make_callbacks), model=model(), step=step, **options), n_epochs
    )
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert_close(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    for one, other in zip(learn.history, ordinary.history, strict=True):
        assert_close({**one, "seconds": 0}, {**other, "seconds": 0})
    return learn


def counting(made: list):
    def backend(graph, inputs):
        made.append(graph)
        return graph

    return backend


def assert_falls_back(reason, *callbacks, **options) -> Learner:
    """A fit warns once with this reason, and has the results of the ordinary fit."""
    ordinary = learner_of(step=ZeroGrad(), **copy.deepcopy({k: v for k, v in options.items() if k != "step"}))
    ordinary.fit(N_EPOCHS)
    learn = learner_of(*callbacks, **options)
    with pytest.warns(LearnerWarning, match=reason) as reported:
        learn.fit(N_EPOCHS)
    assert len([each for each in reported if "WholeStep" in str(each.message)]) == 1
    assert reason.split(".*")[0] in learn.callbacks[WholeStep].fallback
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert_close(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    return learn


SCALE = 1.0


class Conf:
    scale = 1.0


class Settled(nn.Module):
    """A model that reads settings from many places."""

    shift = 0.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layer = nn.Linear(1, 3).double(), nn.Linear(3, 1).double()
        self.scales, self.tables, self.conf = [1.0], {"x": {"y": 1.0}}, Conf()
        self.tensors = [torch.tensor(1.0)]
        self.register_buffer("buffer", torch.tensor(1.0))

    def forward(self, x):
        x = self.first(x) * self.scales[0] * self.tables["x"]["y"] * self.conf.scale * self.tensors[0]
        return self.layer(x) * SCALE * self.buffer * getattr(self, "late", 1.0) + self.shift


def once(function, event="before_batch"):
    """A callback that calls the function once, in the middle of the second epoch."""

    def act(learn):
        if learn.training and (learn.epoch, learn.batch_idx) == (1, 1):
            function(learn)

    return lambda: on(event, name="change")(act)


def group_of(learn):
    return learn.optimizer.param_groups[0]


def as_ordinary_with(function, event="before_batch", *others, make_loss=None, make_model=Settled, **options):
    """A fit in which the function changes something has the results of the ordinary fit."""

    def fit(step):
        loss_func = F.mse_loss if make_loss is None else make_loss()
        learn = learner_of(
            once(function, event)(), *(make() for make in others), step=step, model=make_model(),
            loss_func=loss_func, **options,
        )  # fmt: skip
        learn.fit(N_EPOCHS)
        globals()["SCALE"] = 1.0
        return learn

    ordinary = fit(ZeroGrad())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # it may fall back
        learn = fit(WholeStep("eager"))
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    assert_close(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    return learn
