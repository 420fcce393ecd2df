"""Learners made in Python, by name: what makes the model and the data, and a function of both and a seed."""

from functools import partial

import models
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from callbacks import (
    DevicePlacement,
    EarlyStopping,
    GradientAccumulation,
    Metrics,
    MixedPrecision,
    ParamScheduler,
    StopOnNaN,
    TorchScheduler,
    ZeroGrad,
    accuracy,
)
from callbacks.annealers import combine, cos, exp, poly
from learner import Data, Learner

QUIET = (ZeroGrad, DevicePlacement, StopOnNaN, Metrics)
SGD = partial(torch.optim.SGD, lr=0.1)
SEED, N_EPOCHS = 7, 5


def learner(model, data, loss=F.cross_entropy, optimizer=SGD, *callbacks, **options):
    return Learner(model, data, loss, optimizer, callbacks, defaults=QUIET, **options)


def frozen(model, data):
    learn = learner(model, data, splitter=models.split)
    learn.freeze()
    return learn


def groups_by_hand(model, data):
    groups = [
        {"params": model.body.parameters(), "lr": 0.01},
        {"params": model.head.parameters(), "weight_decay": 0.1},
    ]
    return learner(model, data, F.cross_entropy, torch.optim.SGD(groups, lr=0.1))


def with_class_weights(model, data):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.3]))
    return learner(model, data, loss, SGD, GradientAccumulation(3), EarlyStopping(patience=1))


def two_stops(model, data):
    stops = EarlyStopping(patience=2), EarlyStopping("valid_accuracy", patience=3, name="other")
    return learner(model, data, F.cross_entropy, SGD, *stops, metrics=[accuracy])


def stopped_by_accuracy(model, data, loss):
    return learner(model, data, loss, SGD, EarlyStopping("valid_accuracy", patience=1), metrics=[accuracy])


def from_tensors(model, tensors, **options):
    return learner(model, Data.from_tensors(*tensors, seed=3, **options))


def by_torch(scheduler):
    return lambda model, data: learner(model, data, F.cross_entropy, SGD, TorchScheduler(scheduler))


FALL = ParamScheduler({"lr": cos(0.2, 0.0)})
PHASES = combine([0.3, 0.7], [exp(0.01, 0.1), poly(0.1, 0.01, 2.0)])

#: The function that makes the learner, and what differs from models.py:Net and models.py:loaders.
LEARNERS = {
    "frozen": (frozen, {}),
    "groups_by_hand": (groups_by_hand, {}),
    "lambda": (lambda m, d: learner(m, d, F.cross_entropy, lambda p: torch.optim.Adam(p, 0.01)), {}),
    "class_weights": (with_class_weights, {}),
    "two_stops": (two_stops, {}),
    "share": (
        partial(stopped_by_accuracy, loss=nn.BCELoss()),
        {"model": "models.py:Share", "data": "models.py:binary"},
    ),
    "signs": (
        partial(stopped_by_accuracy, loss=models.hinge),
        {"model": "models.py:YesOrNo", "data": "models.py:signs"},
    ),
    "classes_last": (
        partial(stopped_by_accuracy, loss=models.loss_of_answers),
        {"model": "models.py:TwoAnswers", "data": "models.py:two_answers"},
    ),
    "sum": (lambda m, d: learner(m, d, partial(F.cross_entropy, reduction="sum")), {}),
    "renamed": (lambda m, d: learner(m, d, models.loss_func), {}),
    "two_outputs": (
        lambda m, d: learner(m, d, models.loss_of_pair, SGD, MixedPrecision()),
        {"model": {"use": "models.py:Pair"}},
    ),
    "from_tensors": (partial(from_tensors, batch_size=16), {"data": "models.py:one_batch"}),
    "without_rest": (
        partial(from_tensors, batch_size=7, valid=None, drop_last=True),
        {"data": "models.py:one_batch"},
    ),
    "in_order": (
        partial(from_tensors, batch_size=7, valid=None, shuffle=False, drop_last=True),
        {"data": "models.py:one_batch"},
    ),
    "sampler": (learner, {"data": "models.py:sampled"}),
    "model_before_data": (learner, {"data": "models.py:drawn", "model_first": True}),
    "torch_plateau": (by_torch(partial(ReduceLROnPlateau, patience=0, factor=0.5)), {}),
    "torch_lambda": (by_torch(partial(LambdaLR, lr_lambda=models.down)), {}),
    "together": (
        lambda m, d: learner(m, d, F.cross_entropy, SGD, FALL, GradientAccumulation(3)),
        {},
    ),
    "together_by_items": (
        lambda m, d: learner(m, d, F.cross_entropy, SGD, FALL, GradientAccumulation(n_samples=20)),
        {},
    ),
    "phases": (lambda m, d: learner(m, d, F.cross_entropy, SGD, ParamScheduler({"lr": PHASES})), {}),
}


def made(name):
    """The learner of a name, after its seed, and what `to_script` needs."""
    make, settings = LEARNERS[name]
    given = {"model": "models.py:Net", "data": "models.py:loaders", **settings}
    is_first = given.pop("model_first", False)
    makers = [
        getattr(models, (each if isinstance(each, str) else each["use"])[10:]) for each in given.values()
    ]
    torch.manual_seed(SEED)
    if is_first:
        model = makers[0]()
        return make(model, makers[1]()), given
    data = makers[1]()
    return make(makers[0](), data), given
