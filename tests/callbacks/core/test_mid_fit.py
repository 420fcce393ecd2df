"""What is replaced or added in mid-fit is used or reported, compared with hand-written loops."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ExponentialLR

from callbacks import (
    EMA,
    SAM,
    SWA,
    ActivationStats,
    BatchNormFreeze,
    CancelBatch,
    CancelEpoch,
    CancelStep,
    CancelTrain,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    GradientFlow,
    GradientNorms,
    LeanStep,
    LearnerWarning,
    Metrics,
    MixedPrecision,
    MixUp,
    Order,
    ParamScheduler,
    Recorder,
    ReduceLROnPlateau,
    StopOnNaN,
    TorchScheduler,
    WeightNoise,
    WeightUpdates,
    When,
    ZeroGrad,
    on,
)
from learner import Data, Learner

N_BATCHES = 4


def doubles() -> list:
    return [(inputs.double(), targets.double()) for inputs, targets in line_batches(N_BATCHES)]


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1).double()


def learner_of(model, *callbacks, optimizer=None, loss_func=F.mse_loss, data=None, **options) -> Learner:
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    optimizer = partial(SGD, lr=0.1) if optimizer is None else optimizer
    return Learner(
        model, Data(doubles()) if data is None else data, loss_func, optimizer, callbacks, **options
    )


def at(event, epoch, batch, function, **options):
    """A callback that calls a function once, in training."""

    options.setdefault("name", f"at_{event}_{epoch}_{batch}")

    @on(event, **options)
    def act(learn):
        if learn.training and (learn.epoch, learn.batch_idx) == (epoch, batch):
            function(learn)

    return act


def after_epoch(epoch, function, **options):
    @on("after_epoch", name=f"after_epoch_{epoch}", **options)
    def act(learn):
        if learn.epoch == epoch:
            function(learn)

    return act


def assert_same(one, other) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-9, atol=1e-11, msg=f"{name} differs")


def replace_weight(model, optimizer) -> None:
    model.weight = nn.Parameter(torch.ones_like(model.weight))
    optimizer.param_groups[0]["params"][0] = model.weight


# Gradients that add up


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5).double())

    def forward(self, preds, targets):
        return F.mse_loss(preds * self.scale, targets)


def test_a_parameter_of_the_loss_gets_the_mean_of_a_window_too():
    def parts():
        model, loss_func = line(), Scaled()
        return model, loss_func, SGD([*model.parameters(), *loss_func.parameters()], lr=0.1)

    model, loss_func, optimizer = parts()
    learner_of(model, GradientAccumulation(N_BATCHES), optimizer=optimizer, loss_func=loss_func).fit(1)
    own, own_loss, optimizer = parts()
    for inputs, targets in doubles():
        (own_loss(own(inputs), targets) / N_BATCHES).backward()
    optimizer.step()
    assert_same(
        {**model.state_dict(), **loss_func.state_dict()}, {**own.state_dict(), **own_loss.state_dict()}
    )


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_of_an_update_that_was_left_out_are_divided_once(n):
    @on("before_step", name="leave_out")
    def leave_out(learn):
        if learn.batch_idx == n - 1:
            raise CancelStep

    learn = learner_of(line(), GradientAccumulation(n), leave_out)
    learn.fit(1)
    model = line()
    optimizer = SGD(model.parameters(), lr=0.1)
    for number, (inputs, targets) in enumerate(doubles()):
        (F.mse_loss(model(inputs), targets) / n).backward()
        if number > n - 1 and number % n == n - 1:
            optimizer.step()
            optimizer.zero_grad()
    assert_same(learn.model.state_dict(), model.state_dict())


def test_a_scaled_gradient_adds_to_that_of_an_update_that_was_left_out():
    @on("before_step", name="leave_out")
    def leave_out(learn):
        if learn.batch_idx % 2 == 0:
            raise CancelStep

    def fitted(*callbacks):
        learn = learner_of(line().float(), leave_out, *callbacks, data=Data(line_batches(N_BATCHES)))
        learn.fit(1)
        return learn.model.state_dict()

    ordinary, mixed = fitted(), fitted(MixedPrecision("fp16", init_scale=256.0))
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, ordinary[name], rtol=0.01, atol=0.01)


# Conflicts with what comes in mid-fit


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (lambda: GradientAccumulation(2), SAM, "computes those of the last batch again"),
        (SAM, lambda: MixedPrecision("fp16"), "computes gradients again"),
        (SAM, lambda: GradientAccumulation(2), "computes those of the last batch again"),
    ],
)
def test_callbacks_that_conflict_are_refused_in_mid_fit_too(first, second, words):
    learn = learner_of(
        line().float(),
        first(),
        at("before_batch", 1, 0, lambda learn: learn.add_callbacks(second())),
        data=Data(line_batches(N_BATCHES)),
    )
    with pytest.raises(ValueError, match=words):
        learn.fit(2)


def test_a_precision_that_is_changed_to_fp16_gets_its_scale():
    norms: list[float] = []
    learn = learner_of(
        line().float(),
        MixedPrecision("bf16"),
        at("after_backward", 1, 1, lambda learn: norms.append(learn.model.weight.grad.abs().item())),
        after_epoch(0, lambda learn: setattr(learn.callbacks.mixed_precision, "precision", "fp16")),
        data=Data(line_batches(N_BATCHES)),
    )
    learn.fit(2)
    assert norms[0] > 100
    assert learn.callbacks.mixed_precision.scaler is not None


def test_a_loss_that_becomes_a_sum_is_reported():
    become = at("before_batch", 1, 1, lambda learn: setattr(learn, "loss_func", nn.MSELoss(reduction="sum")))
    with pytest.raises(ValueError, match="was changed to a sum"):
        learner_of(line(), GradientAccumulation(2), become).fit(2)


# Averages


class Running(nn.Module):
    """A model whose buffer is another tensor after each batch."""

    def __init__(self):
        super().__init__()
        self.layer = line()
        self.register_buffer("mean", torch.zeros(1).double())

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.layer(x) + self.mean


def averaged_by_hand(model, change=lambda *_: None, n_epochs=2) -> dict:
    """Averages of all that a model holds, with a decay of 0.5."""
    optimizer = SGD(model.parameters(), lr=0.1)
    averages = {name: each.clone() for name, each in model.state_dict().items()}
    for epoch in range(n_epochs):
        for number, (inputs, targets) in enumerate(doubles()):
            change(model, optimizer, epoch, number)
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            for name, each in model.state_dict().items():
                averages[name].lerp_(each, 0.5)
    return averages


def test_buffers_that_are_replaced_are_averaged():
    learn = learner_of(Running(), EMA(0.5, warmup=False, buffers="average"))
    learn.fit(2)
    assert_same(learn.model.state_dict(), averaged_by_hand(Running()))


def test_a_parameter_that_is_replaced_in_mid_pass_is_averaged():
    def change(model, optimizer, epoch, batch):
        if (epoch, batch) == (1, 2):
            replace_weight(model, optimizer)

    learn = learner_of(
        line(),
        EMA(0.5, warmup=False),
        at("before_batch", 1, 2, lambda learn: replace_weight(learn.model, learn.optimizer)),
    )
    learn.fit(2)
    assert_same(learn.model.state_dict(), averaged_by_hand(line(), change))


def swap_model(learn) -> None:
    learn.model = line()
    nn.init.constant_(learn.model.weight, 5)
    learn.optimizer = SGD(learn.model.parameters(), lr=1e-300)


@pytest.mark.parametrize("event", ["before_batch", "after_epoch"])
def test_another_model_is_not_mixed_with_the_averages_of_the_first(event):
    first = line()
    swap = at(event, 1, 1, swap_model) if event == "before_batch" else after_epoch(0, swap_model)
    trained: list = []
    look = at(
        event, 1, 1, lambda learn: trained.append(learn.model.weight.item()), order=Order.PREPARE, name="look"
    )
    learn = learner_of(first, look, EMA(0.5), swap)
    learn.fit(2)
    assert learn.model.weight.item() == 5
    if event == "before_batch":
        assert first.weight.item() == trained[0]


def test_a_layer_that_is_replaced_while_the_averages_are_there_stays():
    learn = learner_of(
        line(),
        EMA(0.5, at_end="weights"),
        after_epoch(0, lambda learn: replace_weight(learn.model, learn.optimizer)),
    )
    learn.optimizer.param_groups[0]["lr"] = 1e-300
    learn.fit(2)
    assert learn.model.weight.item() == 1


def test_swa_starts_a_new_average_for_another_model():
    learn = learner_of(line(), SWA(0), after_epoch(1, swap_model))
    learn.fit(4)
    assert learn.model.weight.item() == 5


def test_which_buffers_are_averaged_may_be_changed_between_fits():
    learn = learner_of(Running(), EMA(0.5, warmup=False))
    learn.callbacks.ema.buffers = "average"
    learn.fit(2)
    assert_same(learn.model.state_dict(), averaged_by_hand(Running()))


# Rates


def swap_optimizer(learn) -> None:
    learn.optimizer = SGD(learn.model.parameters(), lr=0.02)


def test_another_optimizer_is_scheduled_relative_to_its_own_rate_and_gets_it_back():
    rates: list[float] = []
    look = on("after_step", name="look")(lambda learn: rates.append(learn.optimizer.param_groups[0]["lr"]))
    learn = learner_of(
        line(),
        ParamScheduler({"lr": lambda progress: 0.5}, relative=True),
        after_epoch(0, swap_optimizer),
        look,
    )
    first = learn.optimizer
    learn.fit(2)
    assert rates == N_BATCHES * [0.05] + N_BATCHES * [0.01]
    assert learn.optimizer.param_groups[0]["lr"] == 0.02
    assert first.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ParamScheduler({"lr": lambda progress: 0.5}),
        lambda: ReduceLROnPlateau("train_loss", patience=0, min_delta=10.0),
        lambda: SWA(0, lr=0.5),
    ],
)
def test_another_optimizer_gets_its_settings_back(callback):
    learn = learner_of(line(), callback(), after_epoch(0, swap_optimizer))
    first = learn.optimizer
    learn.fit(4)
    assert learn.optimizer.param_groups[0]["lr"] == 0.02
    assert first.param_groups[0]["lr"] == 0.1


def test_a_torch_scheduler_reports_that_its_optimizer_is_no_longer_used():
    learn = learner_of(
        line(), TorchScheduler(partial(ExponentialLR, gamma=0.5)), after_epoch(0, swap_optimizer)
    )
    with pytest.raises(ValueError, match="optimizer was replaced"):
        learn.fit(2)


def test_swa_anneals_a_group_that_comes_in_mid_fit_from_its_own_rate():
    extra = nn.Parameter(torch.zeros(1))
    add = at(
        "before_batch", 0, 0, lambda learn: learn.optimizer.add_param_group({"params": [extra], "lr": 0.3})
    )
    rates: list[list[float]] = []
    look = on("before_train", name="look")(
        lambda learn: rates.append([group["lr"] for group in learn.optimizer.param_groups])
    )
    learner_of(line(), SWA(0, lr=0.05, anneal_epochs=4, anneal="linear"), add, look).fit(4)
    assert rates[1] == pytest.approx([0.075, 0.175])
    assert rates[3] == pytest.approx([0.05, 0.05])


# Clipping


def test_the_share_of_clipped_updates_is_that_of_the_bounds_they_had():
    loosen = at("before_batch", 0, 1, lambda learn: setattr(learn.callbacks.gradient_clip, "max_norm", 1e6))
    learn = learner_of(line(), GradientClip(1e-6), loosen)
    learn.fit(1)
    assert learn.history[-1]["clipped"] == 1 / N_BATCHES


# Buffers


def test_a_buffer_that_a_bad_batch_has_replaced_is_restored():
    bad = doubles()
    bad[2] = (bad[2][0] * float("nan"), bad[2][1])
    learn = learner_of(Running(), StopOnNaN(skip=1), data=Data(bad))
    with pytest.warns(LearnerWarning, match="skipped"):
        learn.fit(1)
    model = Running()
    optimizer = SGD(model.parameters(), lr=0.1)
    for inputs, targets in [doubles()[number] for number in (0, 1, 3)]:
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(learn.model.state_dict(), model.state_dict())


# What is recorded


def test_a_parameter_that_is_replaced_in_mid_pass_is_looked_at():
    updates, flow, stats = WeightUpdates("1.weight"), GradientFlow("1.weight"), ActivationStats("1")
    model = nn.Sequential(nn.Identity(), line())

    def replace(learn):
        learn.model[1] = line()
        learn.optimizer = SGD(learn.model.parameters(), lr=0.1)

    learner_of(model, updates, flow, stats, at("before_batch", 0, 1, replace, order=Order.PREPARE)).fit(1)
    assert flow.norms.isfinite().all()
    assert stats.means.isfinite().all()
    assert len(updates.steps) == N_BATCHES


def test_which_steps_are_recorded_may_be_changed_between_fits():
    updates, flow, stats = WeightUpdates(), GradientFlow(), ActivationStats()
    for each in (updates, flow, stats):
        each.every = "2 steps"
    learner_of(line(), updates, flow, stats).fit(1)
    assert updates.steps == flow.steps == stats.steps == [2, 4]


def test_a_validation_within_a_validation_does_not_count_in_it():
    far = [(100 * inputs, targets) for inputs, targets in doubles()]

    @on("before_validate", name="look_elsewhere", order=Order.REPORT)
    def look_elsewhere(learn):
        if learn.results is learn_results[0]:
            learn.validate(far)

    learn_results: list = [None]
    note = on("after_train", name="note")(lambda learn: learn_results.__setitem__(0, learn.results))
    data = Data(doubles(), doubles())
    learn = learner_of(line(), note, look_elsewhere, data=data, optimizer=partial(SGD, lr=1e-300))
    learn.fit(1)
    assert learn.history[-1]["valid_loss"] == learner_of(line(), data=data).validate()["valid_loss"]


def test_metrics_that_come_in_the_middle_of_a_pass_measure_none_of_it():
    learn = learner_of(
        line(),
        at("before_batch", 0, 2, lambda learn: learn.add_callbacks(Metrics())),
        defaults=(ZeroGrad, Recorder),
    )
    learn.fit(2)
    assert "train_loss" not in learn.history[0]
    assert "train_loss" in learn.history[1]


# Snapshots


def test_a_snapshot_that_is_restored_in_mid_batch_is_not_undone_by_noise():
    kept: dict = {}

    def keep(learn):
        kept.update(snapshot=learn.snapshot(), weight=learn.model.weight.item())

    def restore(learn):
        learn.restore(kept["snapshot"])
        weights.clear()
        raise CancelBatch

    weights: list[float] = []
    learn = learner_of(
        line(),
        WeightNoise(0.1, seed=0),
        at("after_batch", 0, 1, keep),
        at("after_loss", 1, 1, restore),
        on("after_backward", name="look")(lambda learn: weights.append(learn.model.weight.item())),
    )
    learn.fit(2)
    assert weights[0] == kept["weight"]


def test_a_snapshot_of_noisy_weights_keeps_those_without_noise():
    def fitted(*callbacks):
        learn = learner_of(line(), WeightNoise(0.1, seed=0), *callbacks)
        learn.fit(2)
        return learn.model.state_dict()

    trip = at("after_backward", 1, 1, lambda learn: learn.restore(learn.snapshot()), order=Order.PREPARE)
    early = at("before_batch", 1, 1, lambda learn: learn.restore(learn.snapshot()))
    assert_same(fitted(trip), fitted())
    assert_same(fitted(early), fitted())


def test_a_validation_in_mid_batch_leaves_the_noise():
    def fitted(*callbacks):
        learn = learner_of(line(), WeightNoise(0.1, seed=0), *callbacks, data=Data(doubles(), doubles()))
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at("before_batch", 1, 1, lambda learn: learn.validate())), fitted())


def test_a_validation_in_mid_batch_does_not_make_a_when_deaf():
    def fitted(*callbacks):
        data = Data(doubles(), doubles())
        learn = learner_of(line(), When(GradientClip(1e-3), start="1 step"), *callbacks, data=data)
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at("before_backward", 1, 1, lambda learn: learn.validate())), fitted())


@pytest.mark.parametrize("event", ["before_batch", "after_pred"])
def test_a_validation_in_mid_batch_leaves_its_loss_mixed(event):
    def fitted(*callbacks):
        learn = learner_of(line(), MixUp(seed=0), *callbacks, data=Data(doubles(), doubles()))
        learn.fit(2)
        return learn.model.state_dict()

    assert_same(fitted(at(event, 1, 1, lambda learn: learn.validate())), fitted())


def test_a_batch_after_one_that_was_cancelled_is_mixed_no_more_than_its_inputs():
    def cancel(learn):
        if learn.training and learn.batch_idx == 1:
            raise CancelBatch

    used: list[int] = []
    n_mixed: list[bool] = []

    def count(preds, targets):
        used.append(1)
        return F.mse_loss(preds, targets)

    @on("after_pred", name="look")
    def look(learn):
        used.clear()
        n_mixed.append(learn.inputs[0] is not learn.batch[0])

    ok: list[bool] = []
    check = on("after_batch", name="check")(lambda learn: ok.append(len(used) == 1 + n_mixed[-1]))
    learn = learner_of(
        line(), MixUp(seed=1, p=0.5), on("after_pred", name="cancel")(cancel), look, check, loss_func=count
    )
    learn.fit(20)
    assert all(ok)
    assert len(set(n_mixed)) == 2


def test_a_snapshot_of_another_optimizer_is_refused_before_anything_changes():
    learn = learner_of(line(), optimizer=partial(Adam, lr=0.1))
    snapshot = learn.snapshot()
    learn.fit(1)
    before, learn.optimizer = learn.model.weight.item(), AdamW(learn.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="of another optimizer"):
        learn.restore(snapshot)
    assert learn.model.weight.item() == before


def test_a_snapshot_of_other_groups_is_refused_before_anything_changes():
    learn = learner_of(line())
    snapshot = learn.snapshot()
    learn.fit(1)
    before = learn.model.weight.item()
    learn.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="other parameter groups"):
        learn.restore(snapshot)
    assert learn.model.weight.item() == before


def test_a_sandbox_restores_what_was_replaced_in_it():
    learn = learner_of(line())
    before = learn.model, learn.optimizer, learn.loss_func, learn.data
    with learn.sandbox():
        swap_model(learn)
        learn.loss_func, learn.data = F.l1_loss, Data(doubles()[:1])
        learn.fit(1)
    assert (learn.model, learn.optimizer, learn.loss_func, learn.data) == before


# Modes


@pytest.mark.parametrize("event", ["before_validate", "after_validate"])
def test_a_part_stays_in_evaluation_mode_where_an_epoch_is_cancelled_in_validation(event):
    model = nn.Sequential(line(), nn.BatchNorm1d(1).double())

    @on(event, name="cancel")
    def cancel(learn):
        raise CancelEpoch

    seen: list[bool] = []
    look = on("before_batch", name="look")(lambda learn: learn.training and seen.append(model[1].training))
    freeze = on("before_fit", name="freeze")(lambda learn: model[1].eval())
    learner_of(model, cancel, look, freeze, data=Data(doubles(), doubles())).fit(2)
    assert seen == 2 * N_BATCHES * [False]


def test_batch_norm_that_is_frozen_in_the_middle_of_a_pass_stays_as_it_is():
    model = nn.Sequential(line(), nn.BatchNorm1d(1).double())
    learn = learner_of(
        model,
        at(
            "before_batch",
            0,
            2,
            lambda learn: learn.add_callbacks(BatchNormFreeze("all")),
            order=Order.PREPARE,
        ),
    )
    learn.fit(2)
    assert model[1].num_batches_tracked == 3  # the batch in which it came had begun


# Settings


def test_the_window_may_be_changed():
    when = When(GradientNorms(), start="1 step")
    when.start = "2 epochs"
    learn = learner_of(line(), when)
    learn.fit(3)
    assert ["grad_norm" in row for row in learn.history] == [False, False, True]
    with pytest.raises(ValueError, match="When\\(until='soon'\\)"):
        when.until = "soon"
    assert when.until is None


def test_what_early_stopping_looks_at_may_be_changed_between_fits():
    stop = EarlyStopping("valid_loss", patience=1)
    stop.monitor = "train_loss"
    learn = learner_of(line(), stop)
    learn.fit(1)
    assert stop.best == learn.history[0]["train_loss"]


def test_a_loss_that_is_replaced_in_mid_pass_is_mixed():
    used: list = []

    def other(preds, targets):
        used.append(targets)
        return F.l1_loss(preds, targets)

    learn = learner_of(
        line(), MixUp(seed=0), at("after_batch", 0, 1, lambda learn: setattr(learn, "loss_func", other))
    )
    learn.fit(1)
    assert len(used) == 2 * 2  # its own targets, and the other ones
    assert learn.loss_func is other


# LeanStep


def halve(learn) -> None:
    learn.model.bfloat16()


def test_weights_that_become_half_precision_take_the_ordinary_step():
    def fitted(step):
        data = Data(line_batches(N_BATCHES))
        to_half = on("before_batch", name="to_half")(
            lambda learn: setattr(
                learn, "inputs", tuple(each.to(learn.model.weight.dtype) for each in learn.inputs)
            )
        )
        options = {
            "optimizer": partial(SGD, lr=0.1, weight_decay=0.01),
            "loss_func": lambda preds, targets: F.mse_loss(preds.float(), targets),
            "defaults": (Metrics, Recorder),
        }
        learn = learner_of(line().float(), step, to_half, after_epoch(1, halve), data=data, **options)
        learn.fit(12)
        return learn

    with pytest.warns(LearnerWarning, match="weights have become torch.bfloat16"):
        lean = fitted(LeanStep())
    ordinary = fitted(ZeroGrad())
    for one, other in zip(lean.model.parameters(), ordinary.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_settings_that_come_in_mid_fit_take_the_ordinary_step(name):
    def change(learn):
        learn.optimizer.param_groups[0][name] = True

    optimizer, defaults = partial(Adam, lr=0.1), (Metrics, Recorder)
    learn = learner_of(
        line(), LeanStep(), at("before_batch", 1, 0, change), optimizer=optimizer, defaults=defaults
    )
    # torch's own step may refuse it here
    warns = pytest.warns(LearnerWarning, match="during the fit")
    with warns, contextlib.suppress(AssertionError, RuntimeError):
        learn.fit(2)
    assert learn.callbacks[LeanStep].fallback


# Errors


def test_an_error_of_a_validation_that_is_caught_is_not_that_of_the_fit():
    def look(learn):
        with contextlib.suppress(RuntimeError):
            learn.validate([(torch.ones(4, 7).double(), torch.ones(4, 1).double())])

    learn = learner_of(line(), at("after_batch", 0, 1, look))
    learn.fit(1)
    assert learn.error is None


@pytest.mark.parametrize("cancel", [CancelTrain, CancelEpoch])
@pytest.mark.parametrize("event", ["after_backward", "before_step", "after_step"])
def test_a_pass_that_is_cancelled_in_mid_update_leaves_no_gradients_to_the_next(event, cancel):
    def leave(learn):
        raise cancel

    learn = learner_of(line(), at(event, 0, 1, leave), optimizer=partial(SGD, lr=0.1, momentum=0.9))
    learn.fit(2)
    model = line()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = doubles()
    for inputs, targets in [*batches[: 2 if event == "after_step" else 1], *batches]:
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(learn.model.weight, model.weight)
