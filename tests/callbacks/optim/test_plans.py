"""The plan of a schedule, and schedules that users write."""

from __future__ import annotations

import pytest
import torch
from ground.schedules import STEP_LR, one_cycle_of

from callbacks import (
    Callback,
    GradientAccumulation,
    ParamScheduler,
    ReduceLROnPlateau,
    ShortEpoch,
    TorchScheduler,
    When,
    on,
)
from callbacks.schedule.annealers import combine, constant, cos, lin, one_cycle, sgdr, warmup_cosine, wsd
from learner.recipes.recipe import load_recipe
from learner.recipes.writer import learner_to_recipe

# Restored


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: ParamScheduler({"lr": lin(0.3, 0.1)}),
        lambda: one_cycle_of(3),
        lambda: ReduceLROnPlateau(patience=0, min_delta=1e9),
    ],
)
def test_a_rate_that_is_a_tensor_is_the_same_tensor_after_the_fit(with_momentum, scheduler):
    learn = with_momentum(scheduler())
    rate = learn.optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
    learn.fit(1)
    assert learn.optimizer.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.05)


# Plans


def test_the_plan_of_one_cycle_of_torch_has_the_momentum_too(with_momentum):
    learn = with_momentum(one_cycle_of(6))
    planned = list(learn.plot_schedule(2, "momentum").get_lines()[0].get_ydata())
    seen = []
    learn.fit(2, [on("after_step")(lambda learn: seen.append(learn.optimizer.param_groups[0]["momentum"]))])
    assert planned == pytest.approx(seen)


def test_the_plan_of_short_epochs_is_short(with_momentum):
    learn = with_momentum(ShortEpoch(2), ParamScheduler({"lr": lin(1.0, 0.0)}))
    assert list(learn.plot_schedule(2).get_lines()[0].get_ydata()) == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_the_plan_has_each_window_and_what_is_between(with_momentum):
    learn = with_momentum(
        When(ParamScheduler({"lr": lin(1.0, 0.5)}, name="first"), until="1 epoch"),
        When(ParamScheduler({"lr": lin(0.3, 0.0)}, name="second"), start="4 steps", until="7 steps"),
    )
    planned = list(learn.plot_schedule(3).get_lines()[0].get_ydata())
    assert planned == pytest.approx([1, 0.75, 0.5, 0.5, 0.3, 0.15, 0, 0, 0])


@pytest.mark.parametrize("window", [{"start": "4 samples"}, {"every": "2 epochs"}])
def test_a_window_that_cannot_be_counted_in_batches_has_no_plan(with_momentum, window):
    learn = with_momentum(When(ParamScheduler({"lr": lin(1.0, 0.0)}), **window))
    with pytest.raises(ValueError, match="is not known in advance"):
        learn.plot_schedule(2)


def test_a_name_that_nothing_schedules_is_refused_with_the_scheduled_ones(with_momentum):
    learn = with_momentum(ParamScheduler({"lr": lin(1.0, 0.0)}))
    with pytest.raises(ValueError, match="Available: lr"):
        learn.plot_schedule(2, "learning_rate")


# Annealers and the schedules of users


def test_phases_without_a_share_are_skipped():
    assert warmup_cosine(1.0, warmup=0.0)(0.5) == pytest.approx(0.5)
    assert wsd(1.0, warmup=0.0, decay=0.5)(0.0) == 1
    assert wsd(1.0, warmup=0.9, decay=0.1)(0.9) == pytest.approx(1)  # 1 - 0.9 - 0.1 is below 0
    assert combine([0.0, 1.0], [lin(5.0, 6.0), lin(0.0, 1.0)])(0.0) == 0


def test_a_part_that_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match=r"0\.3 is not a function of progress"):
        combine([1.0], [0.3])


@pytest.mark.parametrize(
    ("schedule", "error", "words"),
    [
        (one_cycle, TypeError, "one_cycle itself: call it"),
        (lambda progress: float("nan") if progress == 0.6 else 0.1, ValueError, "returns nan at progress 0"),
        (lambda progress: torch.tensor(0.1), ValueError, "finite number"),
        (lambda progress: True, ValueError, "finite number"),
    ],
)
def test_a_schedule_that_returns_no_number_is_refused(with_momentum, schedule, error, words):
    with pytest.raises(error, match=words):
        with_momentum(ParamScheduler({"lr": schedule})).fit(2)


WORDS = [("wd", "weight_decay"), ("mom", "momentum"), ("momentun", "momentum")]


@pytest.mark.parametrize(("name", "meant"), WORDS)
def test_names_of_other_frameworks_are_refused_with_ours(with_momentum, name, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        with_momentum(ParamScheduler({name: lin(1.0, 0.0)})).fit(1)


HEAD = (
    "data: diabetes\nmodel: {use: Linear, in_features: 10, out_features: 1}\nloss: mse\n"
    "optimizer: {use: SGD, lr: 0.1, momentum: 0.9}\nfit: {epochs: 2}\ncallbacks:\n  ParamScheduler:\n    "
    "schedules:\n"
)


RECIPES = {
    "one_cycle": "      lr: {use: one_cycle, start: 0.01, peak: 0.1, end: 0.0, pct_start: 0.3}\n",
    "combine": "      lr: {use: combine, shares: [0.5, 0.5], parts: [{use: lin, start: 0.0, end: 0.1},"
    " {use: wsd, peak: 0.1, decay: 0.3}]}\n",
    "a list": "      lr: [{use: sgdr, value: 0.1, n_cycles: 2}]\n",
    "one's own": "      lr: {use: 'shapes.py:half'}\n",
}


@pytest.mark.parametrize("lines", RECIPES.values(), ids=RECIPES)
def test_schedules_of_a_recipe_are_written_as_one_again(tmp_path, lines):
    (tmp_path / "shapes.py").write_text("def half(progress):\n    return 0.1 * (1 - progress)\n")
    (tmp_path / "recipe.yaml").write_text(HEAD + lines)
    learn = load_recipe(tmp_path / "recipe.yaml").build()
    text = learner_to_recipe(learn, 2, data="diabetes", folder=tmp_path)
    (tmp_path / "again.yaml").write_text(text)
    again = load_recipe(tmp_path / "again.yaml").build()
    plans = [each.callbacks[ParamScheduler].values(each.optimizer, 2, 5) for each in (learn, again)]
    assert plans[0] == plans[1]


def test_a_scheduler_of_torch_is_written_as_a_recipe(with_momentum):
    text = learner_to_recipe(with_momentum(TorchScheduler(STEP_LR)), 1, data="diabetes")
    assert "scheduler: {use: StepLR, step_size: 2}" in text


def test_every_annealer_can_be_written(with_momentum):
    for annealer in (cos(0.1, 0.0), sgdr(0.1), warmup_cosine(0.1), wsd(0.1), constant(0.1)):
        learn = with_momentum(ParamScheduler({"lr": annealer}))
        assert f"use: {annealer.name}" in learner_to_recipe(learn, 1, data="diabetes")


def test_a_callback_of_the_users_that_declares_what_it_sets_is_refused_beside_a_schedule(with_momentum):
    class Halve(Callback):
        sets_hyperparameters = ("lr",)

    with pytest.raises(
        ValueError, match=r"ParamScheduler 'param_scheduler' and Halve 'halve' both change lr"
    ):
        with_momentum(ParamScheduler({"lr": lin(1.0, 0.0)}), Halve()).fit(1)
    later = type("Later", (Halve,), {"sets_from": "1 epoch"})
    with_momentum(When(ParamScheduler({"lr": lin(1.0, 0.0)}), until="1 epoch"), later()).fit(1)


def test_a_callback_of_the_users_that_accumulates_gradients_is_refused_beside_another(with_momentum):
    class Accumulates(Callback):
        accumulates_gradients = True

    with pytest.raises(ValueError, match="both accumulate gradients"):
        with_momentum(GradientAccumulation(2), Accumulates()).fit(1)
