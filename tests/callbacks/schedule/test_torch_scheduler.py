"""Schedulers of torch as a callback."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from callbacks import Callback, Checkpoint, GradientAccumulation, LearnerWarning, Order, on
from callbacks.schedule.torch_scheduler import TorchScheduler
from learner import Data
from learner.recipes.recipe import load_recipe


def rates_by_hand(make, n_steps: int, every: int) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    scheduler, rates = make(optimizer), []
    for step in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("make", "interval", "every"),
    [
        (partial(StepLR, step_size=2), "1 epoch", 3),
        (partial(ExponentialLR, gamma=0.5), "2 epochs", 6),
        (partial(OneCycleLR, max_lr=0.3, total_steps=12), "1 step", 1),
    ],
)
def test_the_rates_are_those_of_the_scheduler_by_hand(make_learner, make, interval, every):
    learn = make_learner(callbacks=[TorchScheduler(make, every=interval)])
    learn.fit(4)
    assert list(learn.history.steps["lr"]) == rates_by_hand(make, 12, every)


@pytest.mark.filterwarnings("ignore:a run that is interrupted may not resume")
def test_a_run_resumes_with_its_rate_after_an_update_at_the_end_of_a_pass(make_learner, tmp_path):
    def make(folder, *callbacks):
        data = Data(lambda: iter(line_batches(6)), None)  # its length is not known
        halve = TorchScheduler(partial(ExponentialLR, gamma=0.5), every="1 step")
        found = [GradientAccumulation(4), halve, Checkpoint(tmp_path / folder), *callbacks]
        return make_learner(data=data, callbacks=found)

    @on("before_epoch")
    def end(learn):
        if learn.epoch == 1:
            raise ZeroDivisionError

    whole, learn = make("whole"), make("resumed", end)
    whole.fit(2)
    with pytest.raises(ZeroDivisionError):
        learn.fit(2)
    learn = make("resumed")
    learn.fit(2, resume="auto")
    assert list(learn.history.steps["lr"]) == list(whole.history.steps["lr"])
    assert list(learn.history.steps["lr"])[6:] == [0.025] * 4 + [0.0125] * 2
    assert torch.equal(learn.model.weight, whole.model.weight)


def warmed(optimizer, warmup, n_steps):
    parts = [LinearLR(optimizer, total_iters=warmup), CosineAnnealingLR(optimizer, n_steps)]
    return SequentialLR(optimizer, parts, [warmup])


@pytest.mark.filterwarnings("ignore:the run was planned for")
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (partial(StepLR, step_size=1, gamma=0.5), partial(StepLR, step_size=1), "has gamma=0.5"),
        (
            partial(warmed, warmup=2, n_steps=3),
            partial(warmed, warmup=2, n_steps=5),
            "CosineAnnealingLR of this run has T_max=3 and continues with it, so T_max=5 has no effect",
        ),
    ],
)
def test_changed_arguments_of_a_resumed_schedule_are_reported(make_learner, tmp_path, before, after, words):
    def make(scheduler):
        return make_learner(callbacks=[TorchScheduler(scheduler), Checkpoint(tmp_path / "run")])

    make(before).fit(1)
    with pytest.warns(LearnerWarning, match=words) as found:
        make(after).fit(2, resume="must")
    assert len([each for each in found if "has no effect" in str(each.message)]) == 1
    make(before).fit(3, resume="must")


def test_a_plateau_lowers_the_rate(make_learner):
    plateau = partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs")
    learn = make_learner(callbacks=[TorchScheduler(plateau)])
    learn.fit(3)
    assert [row["lr"] for row in learn.history] == pytest.approx([0.1, 0.1, 0.01])


def test_a_plateau_of_nothing_that_is_measured_is_refused(make_learner):
    learn = make_learner(callbacks=[TorchScheduler(ReduceLROnPlateau, monitor="valid_los")])
    with pytest.raises(ValueError, match="valid_loss"):
        learn.fit(1)


class Score(Callback):
    order = Order.MEASURE
    measures: ClassVar = {"score": "max"}

    def after_train(self, learn):
        learn.results["score"] = float(learn.epoch)


@pytest.mark.parametrize(
    ("monitor", "mode", "other"), [("score", "min", "max"), ("train_loss", "max", "min")]
)
def test_a_plateau_with_the_wrong_mode_raises_a_warning_with_the_fix(make_learner, monitor, mode, other):
    scheduler = TorchScheduler(partial(ReduceLROnPlateau, mode=mode, patience=9), monitor=monitor)
    with pytest.warns(LearnerWarning, match=f"mode='{mode}'.*partial.ReduceLROnPlateau, mode='{other}'"):
        make_learner(callbacks=[Score, scheduler]).fit(1)
    right = TorchScheduler(partial(ReduceLROnPlateau, mode=other, patience=9), monitor=monitor)
    make_learner(callbacks=[Score, right]).fit(1)  # the settings of the tests make a warning an error


def test_the_optimizer_is_left_unchanged(make_learner):
    learn = make_learner(
        callbacks=[TorchScheduler(partial(OneCycleLR, max_lr=0.3, total_steps=6), every="1 step")]
    )
    names, groups = set(vars(learn.optimizer)), [set(group) for group in learn.optimizer.param_groups]
    learn.fit(2)
    assert learn.optimizer.param_groups[0]["lr"] == 0.1
    assert set(vars(learn.optimizer)) == names
    assert [set(group) for group in learn.optimizer.param_groups] == groups


@pytest.mark.parametrize(
    "make",
    [
        partial(ExponentialLR, gamma=0.5),
        partial(LinearLR, start_factor=0.25),
    ],  # which changes the rate when made
    ids=["ExponentialLR", "LinearLR"],
)
def test_a_snapshot_in_the_middle_takes_the_schedule_up_where_it_was(make_learner, make):
    kept = []

    @on("after_epoch", order=Order.SAVE)
    def keep(learn):
        if learn.epoch == 1 and not kept:
            kept.append(learn.snapshot())

    learn = make_learner(callbacks=[keep, TorchScheduler(make)])
    learn.fit(4)
    wanted = list(learn.history.steps["lr"])[6:]
    learn.restore(kept[0])
    learn.fit(2)
    assert list(learn.history.steps["lr"])[6:] == wanted


@pytest.mark.parametrize("wrong", [None, 3, lambda optimizer: "no scheduler"])
def test_a_function_that_makes_no_scheduler_is_refused(make_learner, wrong):
    with pytest.raises(TypeError, match="TorchScheduler"):
        make_learner(callbacks=[TorchScheduler(wrong)]).fit(1)


def test_a_recipe_names_a_scheduler(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        "data: diabetes\nmodel: {use: Linear, in_features: 10, out_features: 1}\nloss: mse\n"
        "optimizer: {use: SGD, lr: 0.1}\nfit: {epochs: 3}\n"
        "callbacks: {TorchScheduler: {scheduler: {use: ExponentialLR, gamma: 0.5}}}\n"
    )
    learn = load_recipe(tmp_path / "recipe.yaml").build()
    learn.fit(3)
    assert [row["lr"] for row in learn.history] == [0.1, 0.05, 0.025]
