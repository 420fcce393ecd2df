"""Data that continues over epochs."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch.utils.data import TensorDataset

from callbacks import Callback, Checkpoint

X = torch.arange(48.0).view(48, 1) / 48
ROWS = TensorDataset(X, X)
BATCHES = [(x, x) for x in X.split(4)]


def endless():
    """An endless stream of batches."""
    return itertools.cycle(BATCHES)


class Crash(Callback):
    """Ends the run after an update."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def after_step(self, learn):
        if learn.global_step == self.step:
            raise RuntimeError("crash")


def resumed(make, folder, every, step, n_epochs=4, *callbacks, **options):
    """The batches of a whole run and of a resumed one, and whether both end with the same weights."""
    seen = []

    class Seen(Callback):
        def before_batch(self, learn):
            seen.append((learn.epoch, round(48 * learn.inputs[0][0].item())))

    whole = make(Seen, *callbacks)
    whole.fit(n_epochs)
    expected, saving = list(seen), partial(Checkpoint, folder, every=every)
    with pytest.raises(RuntimeError, match="crash"):
        make(saving(), *callbacks).fit(n_epochs, callbacks=[Crash(step)])
    seen.clear()
    again = make(Seen, saving(), *callbacks)
    again.fit(n_epochs, resume="must")
    assert 0 < len(seen) < len(expected)
    return expected[-len(seen) :], seen, torch.equal(again.model.weight, whole.model.weight)
