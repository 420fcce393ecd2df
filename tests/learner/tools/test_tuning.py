"""Training recipes equal the same hand-written steps; the search for a rate."""

from __future__ import annotations

import copy
import math
import random
from functools import partial

import numpy
import pytest
import torch
from resumed import Crash
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    EMA,
    SWA,
    Checkpoint,
    EarlyStopping,
    Metrics,
    ParamScheduler,
    Progress,
    Recorder,
    TorchScheduler,
    When,
    ZeroGrad,
    on,
)
from callbacks.schedule.annealers import constant, flat_cos, one_cycle, sgdr
from learner import Data, Learner
from learner.tools.lr_find import LRSearch, longest_descent

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def make(optimizer=SGD, callbacks=(), seed: int = 0, **options) -> Learner:
    torch.manual_seed(seed)
    inputs = torch.rand(40, 3)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    held_out = TensorDataset(torch.rand(10, 3), torch.rand(10, 1))
    generator = torch.Generator().manual_seed(1)
    loaders = Data(DataLoader(data, 8, shuffle=True, generator=generator), DataLoader(held_out, 8))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    options.setdefault("splitter", lambda model: [model[0], model[3]])
    return Learner(model, loaders, F.mse_loss, optimizer, callbacks, **options)


class Seen:
    """The settings of each group at each step."""

    def __init__(self):
        self.rates: list[list[float]] = []
        self.momentums: list[float] = []

    def callback(self):
        @on("after_step")
        def look(learn):
            groups = learn.optimizer.param_groups
            self.rates.append([group["lr"] for group in groups])
            self.momentums.append(groups[0]["momentum"])

        return look


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


# The search for a rate


def traces(learn: Learner) -> list:
    """All state that a search could change."""
    return [
        [each.detach().clone() for each in learn.model.parameters()],
        copy.deepcopy(learn.optimizer.state_dict()),
        [torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()],
        learn.data.train.generator.get_state(),
        [
            learn.global_step,
            learn.n_samples,
            learn.n_fits,
            learn.stop_reason,
            learn.epoch,
            len(learn.history),
        ],
        [module.training for module in learn.model.modules()],
        [id(callback) for callback in learn.callbacks],
        [each.grad for each in learn.model.parameters()],
        dict(learn.results),
    ]


def test_a_search_leaves_no_trace(tmp_path, capsys):
    learn = make(
        callbacks=[Checkpoint(tmp_path / "run"), EarlyStopping(patience=1), Progress()],
        optimizer=partial(torch.optim.Adam, lr=0.1),
    )
    learn.fit(1)
    capsys.readouterr()
    before, files = traces(learn), sorted((tmp_path / "run").iterdir())
    learn.lr_find(n_steps=50)
    torch.testing.assert_close(traces(learn), before, rtol=0, atol=0)
    assert sorted((tmp_path / "run").iterdir()) == files
    assert capsys.readouterr().out == ""


def test_training_after_a_search_has_the_bits_of_training_without():
    plain = make()
    plain.fit(2)
    searched = make()
    searched.lr_find(n_steps=20)
    searched.fit(2)
    for one, other in zip(plain.model.parameters(), searched.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_losses_are_those_of_a_loop_at_growing_rates():
    learn = make(partial(torch.optim.SGD, lr=1.0))
    found = learn.lr_find(1e-4, 1.0, n_steps=10, stop_factor=None)
    optimizer = torch.optim.SGD(learn.model.parameters(), lr=1.0)
    rates = [1e-4 * 10 ** (4 * step / 9) for step in range(10)]
    assert found.rates == pytest.approx(rates)
    losses, mean = [], 0.0
    learn.model.train()
    for step, (inputs, targets) in enumerate([*learn.data.train, *learn.data.train]):
        optimizer.param_groups[0]["lr"] = rates[step]
        loss = F.mse_loss(learn.model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = 0.98 * mean + 0.02 * loss.item()
        losses.append(mean / (1 - 0.98 ** (step + 1)))
    assert found.losses == pytest.approx(losses)


def test_groups_keep_their_ratio():
    learn, seen = make(), Seen()
    learn.optimizer.param_groups[0]["lr"] = 0.01
    learn.add_callbacks(seen.callback())
    learn.lr_find(1e-3, 1e-1, n_steps=10)
    assert all(low == pytest.approx(high / 10) for low, high in seen.rates)


def test_the_search_ends_when_the_loss_has_grown():
    found = make().lr_find(1e-3, 1e4, n_steps=100)
    assert len(found.losses) < 100
    assert len(found.rates) == len(found.losses) == len(found.raw)


@pytest.mark.parametrize(
    "callback", [lambda: SWA(200), lambda: SWA(lr=0.1), lambda: When(EMA(), start="1 epoch")]
)
def test_averaging_callbacks_do_not_run_in_a_search(callback):
    alone, both = make(), make(callbacks=[callback()])
    assert both.lr_find(n_steps=20).raw == alone.lr_find(n_steps=20).raw
    assert len(both.callbacks) == len(alone.callbacks) + 1


def test_a_start_rate_that_is_too_high_is_refused():
    with pytest.raises(RuntimeError, match="lower rate than start"):
        make(partial(torch.optim.SGD, lr=0.1)).lr_find(1e30, 1e38)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"start": 1.0, "end": 0.1}, ValueError, "lower one first"),
        ({"start": "1"}, TypeError, "write a number"),
        ({"n_steps": 5}, ValueError, "at least 10"),
        ({"stop_factor": 0.5}, ValueError, "above 1"),
    ],
)
def test_settings_that_find_nothing_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        make().lr_find(**settings)


def valley_shaped() -> LRSearch:
    """Flat up to 1e-4, straight down to 1e-1, and up again."""
    logs = [-7 + 0.08 * step for step in range(101)]
    losses = [2.0 if at < -4 else 2.0 - (at + 4) / 2 if at < -1 else 0.5 + 3 * (at + 1) for at in logs]
    return LRSearch([10**at for at in logs], losses, losses)


def test_suggestions_are_near_the_known_rates():
    found = valley_shaped()
    assert 1e-3 < found.valley < 1e-1
    assert found.minimum == pytest.approx(1e-2, rel=0.3)
    assert 1e-4 <= found.steep <= 1e-1
    assert 1e-4 < found.slide < 1
    assert repr(found).startswith("LRSearch(valley=")


def test_the_longest_descent():
    assert longest_descent([3.0, 5.0, 4.0, 4.5, 3.5, 2.0, 6.0, 1.0]) == (1, 7)
    assert longest_descent([1.0]) == (0, 0)


def test_the_plot_shows_losses_and_suggestions():
    ax = valley_shaped().plot()
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels[:2] == ["loss", "smoothed"]
    assert sorted(str(label).split()[0] for label in labels[2:]) == ["minimum/10", "slide", "steep", "valley"]
    assert "minimum/10 0.01: a tenth of the rate at the lowest loss" in [
        each.get_text().strip() for each in ax.texts
    ]
    assert ax.get_xscale() == "log"
    assert all(math.isfinite(value) for value in ax.get_ylim())


def test_a_search_on_a_trained_model_reports_that_it_has_nothing_to_suggest():
    learn = make()
    assert learn.lr_find().falls
    learn.fit(60)
    found = learn.lr_find(n_steps=40)
    assert not found.falls
    assert repr(found).startswith("LRSearch(nothing to suggest: the loss falls at none of these rates")
    ax = found.plot()
    assert ax.get_title() == "Nothing to suggest: no fall"
    assert len(ax.get_lines()) == 2


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


def test_a_schedule_that_is_not_known_in_advance_is_refused():
    learn = make(callbacks=[TorchScheduler(torch.optim.lr_scheduler.ReduceLROnPlateau)])
    with pytest.raises(ValueError, match="not known in advance"):
        learn.plot_schedule(1)
    with pytest.raises(ValueError, match="no callback schedules 'weight_decay'"):
        learn.plot_schedule(1, "weight_decay")


def test_a_scheduler_of_another_hyperparameter_may_run_beside_one_cycle():
    rates = []

    @on("after_step")
    def look(learn):
        rates.append(learn.optimizer.param_groups[0]["weight_decay"])

    make(callbacks=[ParamScheduler({"weight_decay": constant(0.1)}), look]).fit_one_cycle(1, 0.1)
    assert set(rates) == {0.1}


def test_a_scheduler_of_the_rate_beside_one_cycle_is_refused():
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
