"""`learner init`: a recipe and its Python file to start from."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from learner.cli.parser import Commands, Parser, add_plain_command
from learner.recipes.recipe_errors import Mistake

RECIPE, MODELS = "recipe.yaml", "models.py"

RECIPE_TEXT = """\
recipe: a small network learns a noisy wave
seed: 0
data: {use: "models.py:noisy_wave", n_points: 500}     # a function in models.py returns the data
model: {use: "models.py:Net", n_hidden: 32}            # any nn.Module
loss: mse                                              # `learner ls losses` lists them
optimizer: {use: Adam, lr: 1e-2}                       # `learner ls optimizers`
metrics: [RMSE]                                        # `learner ls metrics`
callbacks:                                             # `learner ls callbacks`
  EarlyStopping: {monitor: valid_loss, patience: 5}
  LargestWeight: {use: "models.py:LargestWeight"}      # a callback of your own
fit: {epochs: 20}
"""

MODELS_TEXT = '''\
"""The data, model and callback that recipe.yaml uses. Change them as you like."""

import torch
from torch import nn

from callbacks import Callback
from learner import Data


def noisy_wave(n_points: int = 500, noise: float = 0.1) -> Data:
    """Points of a sine with noise. A fifth of them is used for validation."""
    x = torch.rand(n_points, 1) * 6
    y = torch.sin(x) + noise * torch.randn(n_points, 1)
    return Data.from_tensors(x, y, batch_size=32, valid=0.2)


class Net(nn.Module):
    """A network with one hidden layer: (items, 1) to (items, 1)."""

    def __init__(self, n_hidden: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, n_hidden), nn.Tanh(), nn.Linear(n_hidden, 1))

    def forward(self, x):
        return self.layers(x)


class LargestWeight(Callback):
    """Measure the largest weight at the end of each epoch."""

    def after_train(self, learn):
        weights = learn.model.parameters()
        learn.results["largest_weight"] = max(weight.abs().max().item() for weight in weights)
'''


def add_commands(commands: Commands[Parser]) -> None:
    """Add the command to the command line."""
    init = add_plain_command(commands, "init", "write a first recipe and a model")
    init.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="folder for the files (default: the current one)"
    )
    init.set_defaults(function=do_init)


def do_init(options: argparse.Namespace) -> int:
    """Write the first recipe."""
    for path in write(options.folder):
        print(f"wrote {path}")
    print(f"\nRun it:  learner run {shlex.quote(str(options.folder / RECIPE))}")
    return 0


def write(folder: Path) -> list[Path]:
    """Write both files into the folder, which is created if it is missing; returns their paths."""
    texts = {folder / RECIPE: RECIPE_TEXT, folder / MODELS: MODELS_TEXT}
    there = [str(path) for path in texts if path.exists()]
    if there:
        names = " and ".join(there)
        free = next((name for name in ("first", "second", "third") if not Path(name).exists()), "FOLDER")
        raise Mistake(f"init: {names} would be overwritten. Choose another folder: learner init {free}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Mistake(f"init: cannot write to {folder}: {error.strerror}. Choose another folder.") from error
    return list(texts)
