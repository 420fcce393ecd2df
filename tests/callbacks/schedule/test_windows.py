"""Schedules in the windows of `When` and under budgets; callbacks in a window, found by their class."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny import line_batches
from torch.optim.lr_scheduler import LinearLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    Metrics,
    ParamScheduler,
    ReduceLROnPlateau,
    ShortEpoch,
    StopAfter,
    TorchScheduler,
    When,
    on,
)
from callbacks.schedule.annealers import cos, lin, one_cycle
from learner import Data

RATE = 0.5  # of the optimizer itself


def fall(**settings):
    return ParamScheduler({"lr": lin(1.0, 0.0)}, **settings)


def rates(make_learner, *callbacks, n_epochs=4, resume="never", **options):
    """The rate of each update of a fit with three batches of four items in an epoch."""
    found = []
    note = on("after_step", name="note")(lambda learn: found.append(learn.optimizer.param_groups[0]["lr"]))
    learn = make_learner(lr=RATE, callbacks=callbacks, **options)
    learn.fit(n_epochs, [note], resume=resume)
    return found


def steps(n):
    """From 1 to 0 in n values."""
    return [1 - k / (n - 1) for k in range(n)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"until": "2 epochs"}, [*steps(6), *[0] * 6]),
        ({"start": "2 epochs"}, [*[RATE] * 6, *steps(6)]),
        ({"start": "1 epoch", "until": "3 epochs"}, [*[RATE] * 3, *steps(6), *[0] * 3]),
        ({"start": "2 steps", "until": "6 steps"}, [*[RATE] * 2, *steps(4), *[0] * 6]),
        ({"start": "8 samples", "until": "24 samples"}, [*[RATE] * 2, *steps(4), *[0] * 6]),
        ({"start": "1 epoch", "until": "7 steps"}, [*[RATE] * 3, *steps(4), *[0] * 5]),
        ({"start": "2 steps", "until": "2 epochs"}, [*[RATE] * 2, *steps(4), *[0] * 6]),
        ({"start": "4 steps", "until": "9 epochs"}, [*[RATE] * 4, *steps(23)[:8]]),
    ],
)
def test_a_schedule_in_a_window_runs_from_its_start_to_its_end(make_learner, window, expected):
    assert rates(make_learner, When(fall(), **window)) == pytest.approx(expected)


def test_a_window_within_a_window_is_their_intersection(make_learner):
    held = When(When(fall(), start="1 epoch"), until="2 epochs")
    assert rates(make_learner, held) == pytest.approx([*[RATE] * 3, *steps(3), *[0] * 6])


@pytest.mark.parametrize(
    ("budget", "n_steps"), [("5 steps", 5), ("28 samples", 7), ("2 epochs", 6), ("90 steps", 12)]
)
def test_a_schedule_under_a_budget_ends_with_it(make_learner, budget, n_steps):
    assert rates(make_learner, StopAfter(budget), fall()) == pytest.approx(steps(n_steps))
    assert rates(make_learner, fall(), StopAfter(budget)) == pytest.approx(steps(n_steps))


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        (lambda: [fall(), StopAfter("5 steps")], steps(5)),
        (lambda: [fall(), StopAfter("28 samples")], steps(7)),
        (lambda: [When(fall(), start="2 steps", until="6 steps")], [RATE, RATE, *steps(4), *[0] * 6]),
        (lambda: [When(fall(), start="1 epoch"), StopAfter("8 steps")], [*[RATE] * 3, *steps(5)]),
    ],
)
def test_a_schedule_that_ends_by_steps_or_samples_needs_no_length(make_learner, callbacks, expected):
    batches = make_learner().data.train

    def stream():
        yield from batches

    learn = make_learner(lr=RATE, callbacks=callbacks())
    learn.data.train = stream
    found = []
    learn.fit(4, [on("after_step")(lambda learn: found.append(learn.optimizer.param_groups[0]["lr"]))])
    assert found == pytest.approx(expected)


def test_a_window_that_opens_under_a_budget_ends_with_the_budget(make_learner):
    found = rates(make_learner, StopAfter("8 steps"), When(fall(), start="1 epoch"))
    assert found == pytest.approx([*[RATE] * 3, *steps(5)])


def test_a_budget_counts_from_the_start_of_each_fit(make_learner):
    found = []
    note = on("after_step", name="note")(lambda learn: found.append(learn.optimizer.param_groups[0]["lr"]))
    learn = make_learner(lr=RATE, callbacks=[StopAfter("4 steps"), fall(), note])
    learn.fit(4)
    learn.fit(4)
    assert found == pytest.approx([*steps(4), *steps(4)])


def test_short_epochs_and_accumulated_gradients_are_followed(make_learner):
    assert rates(make_learner, ShortEpoch(2), fall()) == pytest.approx(steps(8))
    held = When(fall(), start="1 step", until="4 steps")
    found = rates(make_learner, GradientAccumulation(2), held, n_epochs=3)
    assert found == pytest.approx([RATE, *steps(3), 0, 0])


@pytest.mark.parametrize(
    "accumulate", [GradientAccumulation(3), GradientAccumulation(n_samples=10)], ids=["batches", "items"]
)
@pytest.mark.parametrize("more", [[], [StopAfter("3 steps")]], ids=["whole", "budget"])
def test_a_schedule_of_accumulated_gradients_is_that_of_large_batches(make_learner, accumulate, more):
    def rates_and_weight(size, *callbacks):
        found = []
        note = on("after_step")(lambda learn: found.append(learn.optimizer.param_groups[0]["lr"]))
        parts = [torch.cat(each) for each in zip(*line_batches(8), strict=True)]
        data = Data(list(zip(*(part.split(size) for part in parts), strict=True)))
        schedule = ParamScheduler({"lr": one_cycle(0.01, 0.1, 0.0)})
        learn = make_learner(data=data, callbacks=[schedule, *callbacks, *more, note])
        learn.fit(2)
        return found, learn.model.weight

    large, weight = rates_and_weight(12)
    small, other = rates_and_weight(4, accumulate)
    assert small == pytest.approx(large)
    assert torch.allclose(weight, other)


def test_a_schedule_of_batches_of_many_sizes_moves_within_an_epoch(make_learner):
    points = TensorDataset(torch.rand(25, 1), torch.rand(25, 1))
    sizes = [[0], *(list(range(1 + 4 * n, 5 + 4 * n)) for n in range(6))]  # the first has one item
    data = Data(DataLoader(points, batch_sampler=sizes))
    found = rates(make_learner, GradientAccumulation(n_samples=8), fall(), n_epochs=1, data=data)
    assert len(found) == len(set(found)) == 3


def test_a_run_with_accumulated_gradients_resumes_with_its_schedule(make_learner, tmp_path):
    def make(folder, *callbacks):
        *first, (inputs, targets) = line_batches(4)
        found = [GradientAccumulation(n_samples=8), ParamScheduler({"lr": cos(0.1, 0.0)})]
        found += [Checkpoint(tmp_path / folder, "1 step"), *callbacks]
        return make_learner(data=Data([*first, (inputs[:1], targets[:1])]), callbacks=found)

    @on("before_batch")
    def end(learn):
        if (learn.epoch, learn.batch_idx) == (1, 3):
            raise ZeroDivisionError

    whole, learn = make("whole"), make("resumed", end)
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    learn = make("resumed")
    learn.fit(3, resume="auto")
    assert list(learn.history.steps["lr"]) == list(whole.history.steps["lr"])


def test_fit_one_cycle_follows_a_budget(make_learner):
    found = []
    note = on("after_step", name="note")(lambda learn: found.append(learn.optimizer.param_groups[0]["lr"]))
    make_learner(callbacks=[StopAfter("6 steps"), note]).fit_one_cycle(4, 0.1)
    wanted = []
    note = on("after_step", name="note")(lambda learn: wanted.append(learn.optimizer.param_groups[0]["lr"]))
    make_learner(callbacks=[note]).fit_one_cycle(2, 0.1)
    assert found == wanted


def test_a_scheduler_of_torch_starts_where_its_window_opens_and_stays_where_it_closes(make_learner):
    warm_up = partial(LinearLR, start_factor=0.5, total_iters=4)
    held = When(TorchScheduler(warm_up, every="1 step"), start="1 epoch", until="2 epochs")
    assert rates(make_learner, held) == pytest.approx(
        [RATE] * 3 + [RATE * each for each in (0.5, 0.625, 0.75)] + [RATE * 0.875] * 6
    )


def test_one_cycle_of_torch_as_long_as_its_window_or_budget_is_allowed(make_learner):
    def cycle(n):
        return TorchScheduler(
            partial(OneCycleLR, max_lr=0.1, total_steps=n, cycle_momentum=False), every="1 step"
        )

    alone = rates(make_learner, cycle(6), n_epochs=2)
    assert rates(make_learner, When(cycle(6), start="2 epochs"))[6:] == alone
    assert rates(make_learner, cycle(6), StopAfter("6 steps")) == alone


@pytest.mark.filterwarnings("ignore:a run that is interrupted")
@pytest.mark.parametrize("at", [1, 4, 8])
@pytest.mark.parametrize("kind", ["steps", "epochs", "samples", "budget", "torch"])
def test_a_schedule_in_a_window_is_resumed_exactly(make_learner, tmp_path, kind, at):
    one = {"lr": one_cycle(0.01, 0.3, 0.0)}
    torchs = partial(OneCycleLR, max_lr=0.1, total_steps=7, cycle_momentum=False)
    make = {
        "steps": lambda: [When(ParamScheduler(one), start="2 steps", until="7 steps")],
        "epochs": lambda: [When(ParamScheduler(one), start="1 epoch", until="2 epochs")],
        "samples": lambda: [When(ParamScheduler(one), start="10 samples")],
        "budget": lambda: [ParamScheduler(one), StopAfter("10 steps")],
        "torch": lambda: [When(TorchScheduler(torchs, every="1 step"), start="1 epoch", until="3 epochs")],
    }[kind]

    @on("before_step")
    def fail(learn):
        if learn.global_step == at:
            raise ZeroDivisionError

    wanted = rates(make_learner, *make(), Checkpoint(tmp_path / "whole", "1 step"))
    with pytest.raises(ZeroDivisionError):
        rates(make_learner, *make(), fail, Checkpoint(tmp_path / "resumed", "1 step"))
    found = rates(make_learner, *make(), Checkpoint(tmp_path / "resumed", "1 step"), resume="must")
    assert found == wanted[at:]


# By its class


def test_a_callback_in_a_window_is_found_by_its_class(make_learner):
    inner = fall()
    learn = make_learner(callbacks=[When(inner, until="1 epoch")])
    assert learn.callbacks[ParamScheduler] is inner
    assert ParamScheduler in learn.callbacks
    assert inner in learn.callbacks
    assert isinstance(learn.callbacks[When], When)
    with learn.without(ParamScheduler):
        assert ParamScheduler not in learn.callbacks
    assert ParamScheduler in learn.callbacks
    learn.remove_callbacks(inner)
    assert ParamScheduler not in learn.callbacks


def test_what_another_callback_needs_may_be_in_a_window(make_learner):
    class Reads(Callback):
        needs = (EarlyStopping,)

    learn = make_learner(callbacks=[Reads, When(EarlyStopping("train_loss"), start="1 epoch")])
    with pytest.raises(ValueError, match="Reads needs EarlyStopping"):
        learn.remove_callbacks(EarlyStopping)


def test_metrics_in_a_window_are_metrics_of_the_learner(make_learner):
    def error(preds, targets):
        return (preds - targets).abs().mean()

    learn = make_learner(callbacks=[When(Metrics(error), start="1 epoch")])
    assert learn.metrics == (error,)


@pytest.mark.parametrize(
    "two",
    [
        lambda: (fall(), When(ReduceLROnPlateau("train_loss"), every="2 epochs")),
        lambda: (GradientClip(1.0, name="one"), When(GradientClip(2.0), start="1 epoch")),
        lambda: (GradientAccumulation(2, name="one"), When(GradientAccumulation(3), start="1 epoch")),
    ],
)
def test_conflicting_callbacks_are_refused_even_if_one_is_in_a_window(make_learner, two):
    with pytest.raises(ValueError, match=r"both (change|clip|accumulate)"):
        make_learner(callbacks=two()).fit(1)
