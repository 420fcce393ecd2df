"""Hyperparameters by functions of progress."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from callbacks import CancelEpoch, Checkpoint, LearnerWarning, ParamScheduler, TorchScheduler, When, on
from callbacks.schedule.annealers import constant, cos, lin, one_cycle
from learner import Data, Learner
from learner.recipes.recipe import load_recipe


def seen(learn, name: str = "lr", n_epochs: int = 4) -> list[list[float]]:
    """The value in each group at each step of a fit."""
    found: list[list[float]] = [[] for _ in learn.optimizer.param_groups]

    @on("after_step")
    def look(learn):
        for group, values in zip(learn.optimizer.param_groups, found, strict=True):
            values.append(group["betas"][0] if name == "beta" else group[name])

    learn.fit(n_epochs, [look])
    return found


def test_a_fit_by_one_cycle_ends_with_the_bits_of_a_loop_with_torchs(make_learner):
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    by_hand = nn.Linear(1, 1)
    by_hand.load_state_dict(model.state_dict())
    optimizer = make(by_hand.parameters())
    scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=12, pct_start=0.25)
    for step in range(12):
        inputs, targets = line_batches(3)[step % 3]
        F.mse_loss(by_hand(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step < 11:
            scheduler.step()
    schedules = {"lr": one_cycle(0.5 / 25, 0.5, 0.5 / 25 / 1e4), "momentum": one_cycle(0.95, 0.85, 0.95)}
    Learner(model, Data(line_batches(3)), F.mse_loss, make, [ParamScheduler(schedules)]).fit(4)
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_the_first_step_has_the_first_value_and_the_last_the_last(make_learner):
    learn = make_learner(callbacks=[ParamScheduler({"lr": lin(0.11, 0.0)})])
    assert seen(learn) == [pytest.approx([0.11 - 0.01 * step for step in range(12)])]


def test_the_settings_are_restored(make_learner):
    learn = make_learner(callbacks=[ParamScheduler({"lr": lin(0.5, 0.1), "weight_decay": constant(0.3)})])
    before = dict(learn.optimizer.param_groups[0])
    learn.fit(1)
    assert dict(learn.optimizer.param_groups[0]) == before


def test_momentum_is_the_first_beta_of_adam(make_learner):
    learn = make_learner(callbacks=[ParamScheduler({"momentum": lin(0.8, 0.9)})])
    learn.optimizer = torch.optim.Adam(learn.model.parameters(), betas=(0.7, 0.99))
    assert seen(learn, "beta", 1) == [pytest.approx([0.8, 0.85, 0.9])]
    assert learn.optimizer.param_groups[0]["betas"] == (0.7, 0.99)


def test_a_rate_that_is_a_tensor_keeps_its_place(make_learner):
    learn = make_learner(callbacks=[ParamScheduler({"lr": lin(0.3, 0.1)})])
    rate = torch.tensor(0.05)
    learn.optimizer.param_groups[0]["lr"] = rate
    found = []
    learn.fit(1, [on("after_step")(lambda learn: found.append(float(rate)))])
    assert found == pytest.approx([0.3, 0.2, 0.1])
    assert float(learn.optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


@pytest.fixture
def two_groups(make_learner):
    """Make a learner whose weight and bias have different rates, 0.1 and 0.01."""

    def make(*callbacks):
        learn = make_learner(callbacks=callbacks)
        weight, bias = learn.model.parameters()
        learn.optimizer = torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.01}], lr=0.1)
        return learn

    return make


def test_relative_values_keep_the_ratios_of_the_groups(two_groups):
    found = seen(two_groups(ParamScheduler({"lr": lin(1.0, 0.0)}, relative=True)), n_epochs=1)
    assert found == [pytest.approx([0.1, 0.05, 0.0]), pytest.approx([0.01, 0.005, 0.0])]


def test_each_group_may_have_its_own(two_groups):
    found = seen(two_groups(ParamScheduler({"lr": [lin(0.2, 0.0), constant(0.3)]})), n_epochs=1)
    assert found == [pytest.approx([0.2, 0.1, 0.0]), pytest.approx([0.3, 0.3, 0.3])]


def test_the_values_can_be_asked_for_without_a_fit(two_groups):
    learn = two_groups()
    scheduler = ParamScheduler({"lr": lin(1.0, 0.0)}, relative=True)
    values = scheduler.values(learn.optimizer, 1, 3)
    assert values == {"lr": [pytest.approx([0.1, 0.05, 0.0]), pytest.approx([0.01, 0.005, 0.0])]}
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


def endless(n_batches: int):
    return lambda: iter(line_batches(n_batches))


def test_a_loader_of_unknown_length_needs_n_batches(make_learner):
    scheduler = ParamScheduler({"lr": lin(0.2, 0.0)})
    learn = make_learner(data=Data(endless(3)), callbacks=[scheduler])
    with pytest.raises(ValueError, match="n_batches="):
        learn.fit(1)
    learn = make_learner(
        data=Data(endless(3)), callbacks=[ParamScheduler({"lr": lin(0.2, 0.0)}, n_batches=3)]
    )
    assert seen(learn, n_epochs=1) == [pytest.approx([0.2, 0.1, 0.0])]


@pytest.mark.parametrize(("n_batches", "words"), [(2, "shorter"), (5, "longer")])
def test_a_schedule_of_another_length_than_the_fit_is_reported_once(make_learner, n_batches, words):
    scheduler = ParamScheduler({"lr": lin(0.2, 0.0)}, n_batches=n_batches)
    learn = make_learner(data=Data(endless(3)), callbacks=[scheduler])
    with pytest.warns(LearnerWarning, match=f"{words} than the fit. Use n_batches=3") as warned:
        learn.fit(2)
    assert len(warned) == 1


def test_an_epoch_that_is_cancelled_leaves_the_next_where_it_would_be(make_learner):
    @on("after_batch")
    def leave(learn):
        if learn.training and learn.epoch == 0 and learn.batch_idx == 0:
            raise CancelEpoch

    learn = make_learner(valid=False, callbacks=[ParamScheduler({"lr": lin(0.5, 0.0)}), leave])
    assert seen(learn, n_epochs=2) == [pytest.approx([0.5, 0.2, 0.1, 0.0])]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ParamScheduler(lin(0, 1)), TypeError, "by name"),
        (lambda: ParamScheduler({}), TypeError, "by name"),
        (lambda: ParamScheduler({"lr": 0.1}), TypeError, r"constant\(0.1\)"),
        (lambda: ParamScheduler({"lr": []}), TypeError, "one for each parameter group"),
        (lambda: ParamScheduler({"lr": "cos"}), TypeError, "'lr' is 'cos'"),
        (lambda: ParamScheduler({"lr": cos(1, 0)}, n_batches=0), ValueError, "n_batches=0"),
    ],
)
def test_an_invalid_schedule_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("schedules", "words"),
    [
        ({"beta": cos(1, 0)}, "SGD has no 'beta'. It has: lr, momentum"),
        ({"lr": [cos(1, 0), cos(1, 0)]}, "2 schedules, and the optimizer has 1 parameter groups"),
        ({"lr": lin(1, -1)}, "at least 0"),
        ({"lr": lambda progress: math.nan}, "nan at progress 0.0"),
        ({"lr": lambda progress: None}, "None at progress 0.0"),
    ],
)
def test_what_the_optimizer_cannot_follow_is_refused_before_the_first_step(make_learner, schedules, words):
    learn = make_learner(callbacks=[ParamScheduler(schedules)])
    with pytest.raises(ValueError, match=words):
        learn.fit(1)
    assert learn.global_step == 0


@pytest.mark.parametrize(
    "other", [ParamScheduler({"lr": cos(1, 0)}, name="other"), TorchScheduler(partial(StepLR, step_size=1))]
)
def test_callbacks_that_change_the_same_hyperparameter_are_refused_by_name(make_learner, other):
    learn = make_learner(callbacks=[ParamScheduler({"lr": cos(1, 0)}), other])
    with pytest.raises(ValueError, match=f"'param_scheduler'.*'{other.name}' both change lr"):
        learn.fit(1)


def test_callbacks_that_change_different_hyperparameters_are_allowed(make_learner):
    other = ParamScheduler({"weight_decay": constant(0.1)}, name="decay")
    make_learner(callbacks=[ParamScheduler({"lr": cos(0.1, 0)}), other]).fit(1)


RECIPE = """
data: {use: article}
model: {use: Linear, in_features: 3, out_features: 1}
loss: mse
optimizer: {use: SGD, lr: 1.0e-5}
callbacks:
  ParamScheduler:
    schedules:
      lr:
        use: combine
        shares: [0.5, 0.5]
        parts: [{use: lin, start: 0, end: 1}, {use: cos, start: 1, end: 0}]
    relative: true
fit: {epochs: 2}
"""


def test_recipes_name_annealers(tmp_path):
    path = tmp_path / "scheduled.yaml"
    path.write_text(RECIPE)
    learn = load_recipe(path).build()
    scheduler = learn.callbacks[ParamScheduler]
    assert scheduler.schedules == {"lr": scheduler.schedules["lr"]}
    assert repr(scheduler.schedules["lr"]) == "combine((0.5, 0.5), (lin(0, 1), cos(1, 0)))"


@pytest.mark.filterwarnings("ignore:a run that is interrupted")
@pytest.mark.parametrize("at", [1, 4, 5, 8])
def test_with_a_loader_of_unknown_length_an_interrupted_fit_resumes_with_the_same_values(
    make_learner, tmp_path, at
):
    def make(folder):
        schedules = {"lr": one_cycle(0.01, 0.3, 0.0), "weight_decay": lin(0.1, 0.0)}
        scheduler = ParamScheduler(schedules, n_batches=3)
        callbacks = [scheduler, Checkpoint(tmp_path / folder, "1 step")]
        return make_learner(data=Data(endless(3)), callbacks=callbacks)

    @on("before_step")
    def fail(learn):
        if learn.global_step == at:
            raise ZeroDivisionError

    whole, again = make("whole"), make("resumed")
    wanted = seen(whole, n_epochs=3)[0]
    with pytest.raises(ZeroDivisionError):
        again.fit(3, [fail])
    learn, found = make("resumed"), []
    learn.fit(
        3, [on("after_step")(lambda each: found.append(each.optimizer.param_groups[0]["lr"]))], resume="must"
    )
    assert found == wanted[at:]
    assert torch.equal(learn.model.weight, whole.model.weight)


def test_a_run_resumed_for_longer_than_planned_is_reported_in_a_when_too(make_learner, tmp_path):
    def make():
        held = When(ParamScheduler({"lr": lin(0.2, 0.0)}), start="1 step")
        return make_learner(callbacks=[held, Checkpoint(tmp_path / "run")])

    make().fit(2)
    with pytest.warns(LearnerWarning, match="now has another length"):
        make().fit(3, resume="must")


def test_it_shows_its_schedules():
    assert (
        repr(ParamScheduler({"lr": lin(0, 1)}, relative=True))
        == "ParamScheduler({'lr': lin(0, 1)}, relative=True)"
    )
