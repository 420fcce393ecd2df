"""The search for a learning rate leaves no trace, and suggests rates near the known ones."""

from __future__ import annotations

import copy
import math
import random
from functools import partial

import numpy
import pytest
import torch
from torch.nn import functional as F
from upper.tuned import Seen, make

from callbacks import (
    EMA,
    SWA,
    Checkpoint,
    EarlyStopping,
    Progress,
    When,
)
from learner import Learner
from learner.tools.lr_find import LRSearch, longest_descent

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
        ({"start": "1"}, TypeError, "must be a number"),
        ({"n_steps": 5}, ValueError, "10 or more"),
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


def test_the_legend_of_the_plot_covers_no_loss(make_learner):
    ax = make_learner().lr_find().plot()
    ax.figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    points = [ax.transData.transform(point) for line in ax.get_lines()[:2] for point in line.get_xydata()]
    assert not any(legend.contains(*point) for point in points)


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
