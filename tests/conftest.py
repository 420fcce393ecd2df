"""What the tests share: a tiny regression, and a learner of it that prints nothing."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import preloaded  # noqa: F401
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from callbacks.record.unsaved_weights import note_kept
from learner import Data, Learner

torch.set_num_threads(1)
note_kept()  # so that a line that is printed once in a process does not depend on the order of the tests

#: They fork, limit resources and fill file descriptors, which Windows cannot do.
collect_ignore = (
    [
        "callbacks/save/test_run_folder.py",
        "learner/files/test_damaged_files.py",
        "learner/files/test_hostile_archives.py",
        "learner/files/test_hostile_files.py",
    ]
    if sys.platform == "win32"
    else []
)

QUIET = (ZeroGrad, Metrics, Recorder)

FSYNC = os.fsync
os.fsync = lambda descriptor: None  # no test cuts the power, and a flush takes some milliseconds

# torch waits 5 s for each kept worker of a loader that is garbage, since it closes the worker's queue first.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 1.0


@pytest.fixture
def fsync(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Flush files to the disk, as outside of tests."""
    monkeypatch.setattr(os, "fsync", FSYNC)
    return FSYNC


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory):
    """Forget the modules that a test wrote itself, as the next test may write others of the same name."""
    before = sys.modules.copy()
    yield
    if len(before) == len(sys.modules) and next(reversed(before)) == next(reversed(sys.modules)):
        return  # nothing was imported; the comparison below takes 0.5 ms
    for name in sys.modules.keys() - before.keys():
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


N_MODULES = pytest.StashKey[int]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exempt what the imports have made from garbage collection, which otherwise takes 0.5 s each time."""
    gc.collect()
    gc.freeze()
    session.stash[N_MODULES] = len(sys.modules)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Exempt also what this test has imported."""
    if len(sys.modules) > item.session.stash[N_MODULES] + 50:
        pytest_collection_finish(item.session)


@pytest.fixture
def make_learner() -> Callable[..., Learner]:
    """Make a learner of a seeded linear model on the line, with no default that prints."""

    def make(n_batches: int = 3, valid: bool = True, lr: float = 0.1, **options) -> Learner:
        torch.manual_seed(0)
        data = options.pop("data", Data(line_batches(n_batches), line_batches(2) if valid else None))
        model = options.pop("model", None) or nn.Linear(1, 1)
        optimizer = options.pop("optimizer", None) or partial(torch.optim.SGD, lr=lr)
        options.setdefault("defaults", QUIET)
        return Learner(model, data, F.mse_loss, optimizer, **options)

    return make


@pytest.fixture
def learn(make_learner: Callable[..., Learner]) -> Learner:
    """A learner on three training batches and two of validation."""
    return make_learner()
