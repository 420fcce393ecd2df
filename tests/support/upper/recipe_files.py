"""A recipe, the file beside it, and the history that a run of it keeps."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import RecipeError

MODELS = """\
import torch
from torch import nn
from callbacks import Callback
from helper import WIDTH


class Net(nn.Module):
    def __init__(self, n_hidden: int = WIDTH):
        super().__init__()
        self.n_hidden = n_hidden
        self.layers = nn.Sequential(nn.Linear(1, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1))

    def forward(self, x):
        return self.layers(x)


class Shout(Callback):
    def __init__(self, word: str = "ho"):
        self.word = word
        self.called = []

    def after_epoch(self, learn):
        self.called.append(self.word)


def line(n: int = 8):
    x = torch.rand(n, 1)
    return x, 2 * x + 1


def halved(preds, targets):
    return (preds - targets).square().mean() / 2
"""


RECIPE = """\
seed: 3
data: {use: "models.py:line", n: 6}
model: {use: "models.py:Net", n_hidden: 4}
loss: mse
optimizer: {use: SGD, lr: 1e-1}
callbacks:
  Progress: null
fit: {epochs: 2}
"""


def problems_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides).build()
    return str(caught.value)


#: Overrides of a recipe, so that its runs save checkpoints.
SAVING = ("callbacks.Checkpoint.folder=saved", "callbacks.Checkpoint.every=7 steps")


def history_of(folder: str) -> list[dict[str, str]]:
    """The rows of a run's history."""
    with (Path(folder) / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
