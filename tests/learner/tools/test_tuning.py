"""Training recipes equal the same hand-written steps; the search for a rate."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from resumed import Crash
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from upper.tuned import Seen, make

from callbacks import (
    Checkpoint,
    GradientAccumulation,
    ParamScheduler,
    TorchScheduler,
    ZeroGrad,
    on,
)
from callbacks.schedule.annealers import constant, flat_cos, one_cycle, sgdr
from learner import Data, Learner


def values(annealer, n_steps: int) -> list[float]:
    return [annealer(step / (n_steps - 1), n_steps) for step in range(n_steps)]


def test_one_cycle_by_layer_group():
    learn, seen = make(), Seen()
    learn.fit_one_cycle(2, slice(0.01, 0.1), callbacks=[seen.callback()])
    assert [rates[0] for rates in seen.rates] == pytest.approx(
        values(one_cycle(0.01 / 25, 0.01, 0.01 / 1e5), 10)
    )
    assert [rates[1] for rates in seen.rates] == pytest.approx(
        values(one_cycle(0.1 / 25, 0.1, 0.1 / 1e5), 10)
    )
    assert seen.momentums == pytest.approx(values(one_cycle(0.95, 0.85, 0.95), 10))
    assert [group["lr"] for group in learn.optimizer.param_groups] == [0.1, 0.1]


def test_rates_of_the_optimizer_are_the_peaks_by_default():
    learn, seen = make(), Seen()
    learn.optimizer.param_groups[0]["lr"] = 0.05
    learn.fit_one_cycle(2, callbacks=[seen.callback()])
    assert [max(rates) for rates in zip(*seen.rates, strict=True)] == pytest.approx([0.05, 0.1], rel=0.05)


def test_an_optimizer_without_momentum_trains_without_momentum():
    learn, seen = make(partial(torch.optim.SGD, lr=0.1)), Seen()
    learn.fit_one_cycle(1, callbacks=[seen.callback()])
    assert set(seen.momentums) == {0}


def test_flat_cos_and_sgdr():
    learn, flat, cycles = make(), Seen(), Seen()
    learn.fit_flat_cos(2, 0.2, callbacks=[flat.callback()])
    assert [rates[1] for rates in flat.rates] == pytest.approx(values(flat_cos(0.2, 0.2e-5), 10))
    learn.fit_sgdr(2, 1, 0.2, callbacks=[cycles.callback()])
    assert len(cycles.rates) == 15
    assert [rates[1] for rates in cycles.rates] == pytest.approx(values(sgdr(0.2, 0, 2, 2.0), 15))
    assert cycles.rates[0] == cycles.rates[5] == [0.2, 0.2]


def test_fine_tune_is_freeze_fit_unfreeze_fit():
    ours = make()
    ours.fine_tune(2, 0.1)
    by_hand = make()
    by_hand.freeze()
    by_hand.fit_one_cycle(1, slice(0.1), pct_start=0.99)
    by_hand.unfreeze()
    by_hand.fit_one_cycle(2, slice(0.1 / 200, 0.05), pct_start=0.3, div=5)
    for one, other in zip(ours.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(ours.history) == 3


def test_the_first_part_of_fine_tune_does_not_change_the_first_group():
    learn = make()
    before = copy.deepcopy(learn.model[0].state_dict())
    kept = []
    learn.fine_tune(
        1,
        0.1,
        callbacks=[on("after_epoch")(lambda learn: kept.append(copy.deepcopy(learn.model[0].state_dict())))],
    )
    assert all(torch.equal(kept[0][name], before[name]) for name in before)
    assert not any(torch.equal(kept[1][name], before[name]) for name in before)


@pytest.mark.parametrize("crash_at", [2, 6, 8, 13, 21])
def test_fine_tune_resumes_where_it_was_interrupted(tmp_path, crash_at):
    whole = make(callbacks=[Checkpoint(tmp_path / "whole", "2 steps")])
    whole.fine_tune(2, 0.1)
    crashed = make(callbacks=[Checkpoint(tmp_path / "resumed", "2 steps"), Crash(crash_at)])
    with pytest.raises(ZeroDivisionError):
        crashed.fine_tune(2, 0.1)
    again = make(callbacks=[Checkpoint(tmp_path / "resumed", "2 steps")])
    again.fine_tune(2, 0.1, resume="auto")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["train_loss"] for row in whole.history] == [row["train_loss"] for row in again.history]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda learn: learn.fit_one_cycle(1, -0.1), ValueError, "above 0"),
        (lambda learn: learn.fit_one_cycle(1, "0.1"), TypeError, "slice"),
        (lambda learn: learn.fit_one_cycle(1, 0.1, div=0.5), ValueError, r"fit_one_cycle\(div=0.5\)"),
        (lambda learn: learn.fit_one_cycle(1, 0.1, pct_start=1), ValueError, "pct_start=1"),
        (lambda learn: learn.fit_one_cycle(1.5, 0.1), TypeError, "whole number of epochs"),
        (lambda learn: learn.fit_sgdr(0, 1, 0.1), ValueError, r"fit_sgdr\(n_cycles=0\)"),
        (lambda learn: learn.fine_tune(1, 0), ValueError, "above 0"),
        (lambda learn: learn.fine_tune(1, 0.1, lr_mult=0), ValueError, "lr_mult=0"),
    ],
)
def test_invalid_arguments_are_refused(call, error, words):
    learn = make()
    with pytest.raises(error, match=words):
        call(learn)
    assert learn.global_step == 0
    assert all(each.requires_grad for each in learn.model.parameters())


def test_a_model_with_one_group_cannot_be_fine_tuned():
    with pytest.raises(ValueError, match="splitter="):
        make(splitter=None).fine_tune(1)


def test_two_schedules_of_the_rate_are_refused():
    learn = make(callbacks=[ParamScheduler({"lr": flat_cos(0.1)}, name="mine")])
    with pytest.raises(ValueError, match="both change lr"):
        learn.fit_one_cycle(1)


# The plan of a schedule


@pytest.mark.parametrize(
    "scheduler",
    [
        ParamScheduler({"lr": one_cycle(0.01, 0.3, 0.0), "momentum": flat_cos(0.9)}),
        ParamScheduler({"lr": flat_cos(1.0)}, relative=True),
        TorchScheduler(partial(OneCycleLR, max_lr=0.3, total_steps=15), every="1 step"),
        TorchScheduler(partial(StepLR, step_size=1)),
    ],
    ids=["one_cycle", "relative", "OneCycleLR", "StepLR"],
)
def test_the_planned_rates_equal_those_of_a_fit(scheduler):
    learn, seen = make(callbacks=[scheduler]), Seen()
    before = copy.deepcopy(learn.optimizer.state_dict())
    ax = learn.plot_schedule(3)
    assert learn.optimizer.state_dict() == before
    planned = [list(line.get_ydata()) for line in ax.get_lines()]
    learn.fit(3, [seen.callback()])
    assert planned == [pytest.approx(list(rates)) for rates in zip(*seen.rates, strict=True)]


@pytest.mark.parametrize("accumulate", [{"n_batches": 3}, {"n_samples": 6}], ids=["batches", "items"])
def test_the_plot_with_accumulated_gradients_is_that_of_the_fit(accumulate):
    rates = []

    @on("after_batch")
    def look(learn):
        rates.append(learn.optimizer.param_groups[0]["lr"])

    data = Data.from_tensors(torch.ones(18, 3), torch.ones(18, 1), batch_size=2, valid=None)
    callbacks = [GradientAccumulation(**accumulate), ParamScheduler({"lr": flat_cos(0.1)})]
    learn = Learner(nn.Linear(3, 1), data, nn.functional.mse_loss, torch.optim.SGD, callbacks)
    planned = list(learn.plot_schedule(2).get_lines()[0].get_ydata())
    learn.fit(2, [look])
    assert planned == pytest.approx(rates)
    assert len(set(rates)) > 2


def test_a_schedule_that_is_not_known_in_advance_is_refused():
    learn = make(callbacks=[TorchScheduler(torch.optim.lr_scheduler.ReduceLROnPlateau)])
    with pytest.raises(ValueError, match="not known in advance"):
        learn.plot_schedule(1)
    with pytest.raises(ValueError, match="no callback schedules 'weight_decay'"):
        learn.plot_schedule(1, "weight_decay")


def test_a_scheduler_of_another_hyperparameter_may_run_with_one_cycle():
    rates = []

    @on("after_step")
    def look(learn):
        rates.append(learn.optimizer.param_groups[0]["weight_decay"])

    make(callbacks=[ParamScheduler({"weight_decay": constant(0.1)}), look]).fit_one_cycle(1, 0.1)
    assert set(rates) == {0.1}


def test_a_scheduler_of_the_rate_with_one_cycle_is_refused():
    with pytest.raises(ValueError, match=r"'param_scheduler'.*'fit_one_cycle' both change lr"):
        make(callbacks=[ParamScheduler({"lr": constant(0.1)})]).fit_one_cycle(1, 0.1)


def test_the_marks_of_layer_groups_are_not_hyperparameters():
    with pytest.raises(ValueError, match="SGD has no 'layer_group'"):
        make(callbacks=[ParamScheduler({"layer_group": constant(0.1)})]).fit(1)


def test_fine_tune_uses_the_callbacks_of_an_iterator_in_both_parts():
    n_epochs = []

    @on("before_fit")
    def note(learn):
        n_epochs.append(learn.n_epochs)

    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    data = torch.rand(4, 1), torch.rand(4, 1)
    learn = Learner(model, data, nn.functional.mse_loss, torch.optim.SGD, splitter=list, defaults=(ZeroGrad,))
    learn.fine_tune(2, callbacks=iter([note]))
    assert n_epochs == [1, 2]


@pytest.mark.parametrize("fit", ["fit_one_cycle", "fit_flat_cos", "fit_sgdr", "fine_tune"])
def test_a_single_callback_need_not_be_in_a_list(fit):
    n_epochs = []

    @on("before_fit")
    def note(learn):
        n_epochs.append(learn.n_epochs)

    learn = make()
    getattr(learn, fit)(1, **({"cycle_len": 1} if fit == "fit_sgdr" else {}), callbacks=note)
    assert set(n_epochs) == {1}


def test_a_schedule_that_is_not_in_a_list_is_drawn():
    assert make().plot_schedule(2, callbacks=ParamScheduler({"lr": flat_cos(0.1)})).lines


def test_what_is_not_a_callback_is_refused_by_fits_with_a_schedule():
    with pytest.raises(TypeError, match="callbacks=3: pass a list of callbacks"):
        make().fit_one_cycle(1, callbacks=3)
