"""Numbers that a callback counts up, and that no checkpoint holds, are named."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest

from callbacks import Callback, Checkpoint, EarlyStopping, on


class Count(Callback):
    def __init__(self):
        super().__init__()
        self.n = 0

    def after_batch(self, learn):
        self.n += 1


class CountInFit(Callback):
    def before_fit(self, learn):
        self.n = 0

    def after_batch(self, learn):
        if learn.training:
            self.n = self.n + learn.n_items


class Mean(Callback):
    measures: ClassVar = {"mean": None}  # type: ignore[misc]

    def before_train(self, learn):
        self.total, self.n = 0.0, 0

    def after_loss(self, learn):
        self.total = self.total + learn.loss
        self.n += 1

    def after_train(self, learn):
        learn.results["mean"] = self.total / self.n


class Saved(Count):
    state = ("n",)


class SavedByItself(Count):
    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


class Cached(Callback):
    """Sets what it needs, keeps what it has computed once, and remembers the last value."""

    def __init__(self):
        super().__init__()
        self.size, self.known = None, {}

    def before_epoch(self, learn):
        self.started = time.monotonic() - 0.0

    def after_batch(self, learn):
        self.size = self.size or sum(each.numel() for each in learn.model.parameters()) + 1
        self.known[learn.batch_idx] = self.last = learn.loss * 2
        self.seconds = time.monotonic() - self.started


class InBatch(Callback):
    def before_batch(self, learn):
        self.penalty = 0.0

    def after_pred(self, learn):
        self.penalty += learn.preds.abs().mean()
        learn.preds = learn.preds * 1.0


def resumed_line(make_learner, tmp_path, capsys, kind, *, within):
    """What is printed when a run resumes from a checkpoint within the first epoch, or after it."""

    @on("before_step" if within else "before_epoch")
    def end(learn):
        if learn.global_step == (2 if within else 3):
            raise ZeroDivisionError

    def make(*callbacks):
        every = "1 step" if within else "1 epoch"
        return make_learner(callbacks=[kind(), Checkpoint(tmp_path / "run", every), *callbacks])

    with pytest.raises(ZeroDivisionError):
        make(end).fit(2)
    capsys.readouterr()
    make().fit(2, resume="auto")
    return next(line for line in capsys.readouterr().out.splitlines() if "resuming" in line)


@pytest.mark.parametrize("kind", [Count, CountInFit])
@pytest.mark.parametrize("within", [True, False])
def test_a_resumed_run_names_a_counter_that_is_not_saved(make_learner, tmp_path, capsys, kind, within):
    line = resumed_line(make_learner, tmp_path, capsys, kind, within=within)
    assert line.endswith(f"; no `state` lists {kind.__name__}.n, so the count starts again")


def test_sums_of_a_pass_are_named_only_within_the_pass(make_learner, tmp_path, capsys):
    line = resumed_line(make_learner, tmp_path, capsys, Mean, within=True)
    assert "no `state` lists Mean.n, Mean.total, so the count starts again" in line
    line = resumed_line(make_learner, tmp_path / "other", capsys, Mean, within=False)
    assert line.endswith("after epoch 0 of 2")


@pytest.mark.parametrize("kind", [Saved, SavedByItself, Cached, InBatch, EarlyStopping])
def test_what_is_saved_or_needs_no_saving_is_not_named(make_learner, tmp_path, capsys, kind):
    line = resumed_line(make_learner, tmp_path, capsys, kind, within=True)
    assert line.endswith("after batch 1")


def test_a_check_names_them_if_checkpoints_are_saved(make_learner, tmp_path):
    callbacks = [Count, Mean, Saved]
    assert "state" not in make_learner(callbacks=callbacks).check().facts
    report = make_learner(callbacks=[*callbacks, Checkpoint(tmp_path / "run")]).check()
    assert report.facts["state"].startswith("no `state` lists Count.n, Mean.n, Mean.total: a resumed run")
    assert not report.warnings
