"""A warning points to the user's line, wherever in the library it comes from."""

from __future__ import annotations

import inspect
import warnings
from functools import partial

import pytest
import torch

from callbacks import Checkpoint, LearnerWarning, Order, ParamScheduler, ScalarLogger, TorchScheduler, on
from callbacks.schedule.annealers import lin


def line_of_next() -> int:
    """The number of the line after the one that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno + 1


def damage(learn, folder):
    max(folder.glob("*.pt")).write_bytes(b"")


def change_data(learn, folder):
    learn.data.train.pop()


@pytest.mark.parametrize(
    ("change", "n_epochs"), [(damage, 2), (change_data, 2), (lambda learn, folder: None, 3)]
)
def test_a_warning_of_a_resume_points_to_the_line_of_the_fit(make_learner, tmp_path, change, n_epochs):
    def make():
        return make_learner(callbacks=[Checkpoint(tmp_path), ParamScheduler({"lr": lin(0.1, 0.0)})])

    make().fit(2)
    learn = make()
    change(learn, tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = line_of_next()
        learn.fit(n_epochs, resume="must", allow=("n_batches",))
    assert {(each.filename, each.lineno) for each in caught} == {(__file__, line)}


def late(learner):
    learner.add_callbacks(on("after_epoch", order=Order.DECIDE)(lambda learn: learn.results.update(late=1)))


def too_long(learner):
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=99)
    learner.add_callbacks(TorchScheduler(schedule, every="1 step"))


def fails(values, step):
    raise ConnectionError("gone")


@pytest.mark.parametrize(
    "prepare", [late, too_long, lambda learner: learner.add_callbacks(ScalarLogger(fails))]
)
def test_a_warning_of_a_callback_points_to_the_line_of_the_fit(make_learner, prepare):
    learn = make_learner()
    prepare(learn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LearnerWarning)
        line = line_of_next()
        learn.fit(2)
    assert caught
    assert {(each.filename, each.lineno) for each in caught} == {(__file__, line)}
