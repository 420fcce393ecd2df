"""Estimators of a small network, and data for them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from learner import LearnerClassifier, LearnerRegressor

adam = partial(torch.optim.Adam, lr=0.05)
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
NAMES = np.array(["ash", "birch", "cedar"])
Y = NAMES[X.argmax(1)]


def network(n_features, n_outputs, hidden=8):
    return nn.Sequential(
        nn.Linear(n_features, hidden), nn.Dropout(0.1), nn.ReLU(), nn.Linear(hidden, n_outputs)
    )


def classifier(**settings):
    return LearnerClassifier(
        network, **{"optimizer": adam, "n_epochs": 15, "batch_size": 16, "seed": 0, **settings}
    )


def regressor(make_module=network, **settings):
    return LearnerRegressor(
        make_module, **{"optimizer": adam, "n_epochs": 15, "batch_size": 16, "seed": 0, **settings}
    )
