"""The exponential moving average: its numbers, and who has which weights when."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from resumed import Interrupt, differs, make, outcome
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from callbacks import (
    EMA,
    Callback,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelValidate,
    Checkpoint,
    EarlyStopping,
    Order,
    ValidateEvery,
    When,
    ZeroGrad,
    on,
)
from learner import Data, Learner


class Watch(Callback):
    """Record the weight at each event of interest."""

    order = Order.SAVE

    def __init__(self):
        super().__init__()
        self.seen: dict[str, list[torch.Tensor]] = {}

    def keep(self, event, learn):
        self.seen.setdefault(event, []).append(learn.model.weight.detach().clone())

    def before_train(self, learn):
        self.keep("before_train", learn)

    def after_step(self, learn):
        self.keep("after_step", learn)

    def before_validate(self, learn):
        self.keep("before_validate", learn)

    def after_validate(self, learn):
        self.keep("after_validate", learn)

    def after_epoch(self, learn):
        self.keep("after_epoch", learn)


def by_hand(weights, decay):
    """The average of successive weights, starting with the first; `decay` is a function of the update."""
    average = weights[0].clone()
    for n, weight in enumerate(weights[1:]):
        average = average + (1 - decay(n)) * (weight - average)
    return average


# The numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_the_average_is_that_of_torch_bit_for_bit(buffers):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    data = Data(line_batches(3), line_batches(2))
    learn = Learner(
        model(),
        data,
        F.mse_loss,
        partial(torch.optim.Adam, lr=0.1),
        [EMA(0.9, warmup=False, buffers=buffers)],
        defaults=(ZeroGrad,),
    )
    learn.fit(2)

    theirs, plain = None, model()
    theirs = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(plain)
    floats = [each for each in plain.buffers() if each.is_floating_point()]
    averages: Any = [each.clone() for each in floats]
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, targets in line_batches(3):
            F.mse_loss(plain(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            theirs.update_parameters(plain)
            for average, value in zip(averages, floats, strict=True):
                average.lerp_(value, 1 - 0.9)
    for ours, other in zip(learn.model.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(ours, other)
    found = [each for each in learn.model.buffers() if each.is_floating_point()]
    for ours, other in zip(found, averages if buffers == "average" else floats, strict=True):
        assert torch.equal(ours, other)


def test_the_warm_up_forgets_the_first_weights(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.4), watch])
    before = learn.model.weight.detach().clone()
    learn.fit(2)
    weights = [before, *watch.seen["after_step"]]
    expected = by_hand(weights, lambda n: min(0.4, (1 + n) / (10 + n)))
    assert torch.allclose(learn.model.weight, expected, rtol=1e-6)
    assert learn.callbacks.ema.n_updates == 6


def test_averages_of_half_precision_are_kept_in_float32(make_learner):
    ema: Any = EMA(0.99, warmup=False, at_end="weights")
    batches = [(x.bfloat16(), y.bfloat16()) for x, y in line_batches(3)]
    learn = make_learner(data=Data(batches), model=nn.Linear(1, 1).bfloat16(), callbacks=[ema])
    learn.fit(1)
    assert ema.averages["weight"].dtype == torch.float32
    assert learn.model.weight.dtype == torch.bfloat16
    assert not torch.equal(ema.averages["weight"], ema.averages["weight"].bfloat16().float())


def test_integers_and_double_precision_are_left_as_they_are(make_learner):
    model = nn.Linear(1, 1).double()
    model.register_parameter("table", nn.Parameter(torch.tensor([3]), requires_grad=False))
    batches = [(x.double(), y.double()) for x, y in line_batches(3)]
    learn = make_learner(data=Data(batches), model=model, callbacks=[EMA(at_end="weights")])
    learn.fit(1)
    averages = learn.callbacks.ema.averages
    assert {name: each.dtype for name, each in averages.items()} == dict.fromkeys(
        ["weight", "bias"], torch.float64
    )


def test_a_lazy_layer_is_averaged_from_its_first_update_on(make_learner):
    learn = make_learner(model=nn.LazyLinear(1), callbacks=[EMA(0.5, warmup=False, at_end="weights")])
    learn.fit(1)
    assert set(learn.callbacks.ema.averages) == {"weight", "bias"}


def test_gradients_that_add_up_count_as_one_update(make_learner):
    @on("before_step", order=Order.GRADIENT)
    def accumulate(learn):
        if learn.batch_idx % 3 != 2:
            raise CancelStep

    learn = make_learner(callbacks=[EMA(), accumulate])
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2


# Who has which weights when -------------------------------------------------------------------------------


def test_training_has_the_trained_weights_and_all_else_the_averages(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch])
    first = learn.model.weight.detach().clone()
    learn.fit(2)
    steps = watch.seen["after_step"]
    averages = [by_hand([first, *steps[:n]], lambda n: 0.5) for n in (3, 6)]
    for event in ("before_validate", "after_validate", "after_epoch"):
        assert torch.allclose(torch.stack(watch.seen[event]), torch.stack(averages), rtol=1e-6)
    assert torch.equal(torch.stack(watch.seen["before_train"]), torch.stack([first, steps[2]]))


def test_training_is_the_same_with_and_without_it(make_learner):
    plain, learn = (
        make_learner(),
        make_learner(callbacks=[EMA(0.9, at_end="weights"), ValidateEvery("2 steps")]),
    )
    assert plain.fit(3)["train_loss"] == learn.fit(3)["train_loss"]
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_validation_in_mid_epoch_has_the_averages_and_leaves_the_weights(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch, ValidateEvery("2 steps")])
    learn.fit(1)
    _, second, third = watch.seen["after_step"]
    assert not torch.equal(watch.seen["before_validate"][0], second)
    plain = make_learner()
    plain.fit(1)
    assert torch.equal(plain.model.weight, third)


@pytest.mark.parametrize("cancel", [CancelValidate, CancelEpoch, CancelFit])
@pytest.mark.parametrize("event", ["after_batch", "before_validate", "after_pred"])
def test_a_cancelled_validation_leaves_training_unchanged(make_learner, cancel, event):
    @on(event)
    def leave(learn):
        if not learn.training:
            raise cancel

    learn = make_learner(callbacks=[EMA(0.5, at_end="weights"), leave])
    learn.fit(1 if cancel is CancelFit else 3)
    plain = make_learner()
    plain.fit(1 if cancel is CancelFit else 3)
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_training_pass_that_is_cancelled_ends_with_the_averages_all_the_same(make_learner):
    @on("before_batch")
    def leave(learn):
        if learn.training and learn.batch_idx == 2:
            raise CancelEpoch

    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch, leave])
    learn.fit(2)
    assert not torch.equal(watch.seen["after_epoch"][0], watch.seen["after_step"][1])
    assert torch.equal(watch.seen["before_train"][1], watch.seen["after_step"][1])


def test_an_error_in_validation_gives_the_trained_weights_back(make_learner):
    @on("after_batch")
    def fail(learn):
        if not learn.training and learn.epoch == 1:
            raise ZeroDivisionError

    learn, plain = make_learner(callbacks=[EMA(0.5), fail]), make_learner()
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    plain.fit(2)
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_validation_whose_error_a_callback_catches_does_not_keep_the_averages_in_the_model(make_learner):
    class Careless(Callback):
        def after_batch(self, learn):
            if learn.training:
                try:
                    learn.validate()
                except ZeroDivisionError:
                    return
            elif learn.batch_idx == 1:
                raise ZeroDivisionError

    plain = make_learner(valid=False)
    plain.fit(2)
    learn = make_learner(callbacks=[EMA(0.5, at_end="weights"), Careless()])
    with pytest.raises(ZeroDivisionError):
        learn.fit(2)
    one = make_learner(valid=False)
    one.fit(1)
    assert torch.equal(one.model.weight, learn.model.weight)


def test_early_stopping_restores_the_averages_that_were_best(make_learner):
    watch = Watch()
    stopping = EarlyStopping(patience=2, mode="max")
    learn = make_learner(callbacks=[EMA(0.5), stopping, watch])
    with pytest.warns(UserWarning, match="better way"):
        learn.fit(9)
    assert stopping.best_epoch == 0
    assert torch.equal(learn.model.weight, watch.seen["before_validate"][0])


def test_the_file_of_an_epochs_end_holds_the_averages_as_the_models_weights(make_learner, tmp_path):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5), Checkpoint(tmp_path / "run", keep=None), watch])
    learn.fit(2)
    held = torch.load(tmp_path / "run" / "step-000000003.pt", weights_only=True)["model"]["weight"]
    assert torch.equal(held, watch.seen["after_validate"][0])


def test_after_the_fit_the_weights_can_be_asked_for_and_the_averages_had_for_a_block(make_learner):
    learn, other = make_learner(callbacks=[EMA(0.5, at_end="weights")]), make_learner(callbacks=[EMA(0.5)])
    learn.fit(2)
    other.fit(2)
    trained = learn.model.weight.detach().clone()
    with learn.callbacks.ema.averaged(learn):
        assert torch.equal(learn.model.weight, other.model.weight)
        assert learn.validate() == {"valid_loss": other.results["valid_loss"]}
        assert torch.equal(learn.model.weight, other.model.weight)
    assert torch.equal(learn.model.weight, trained)
    assert learn.validate()["valid_loss"] != learn.results["valid_loss"]
    with pytest.raises(ValueError, match="at_end='weights'"):
        other.callbacks.ema.averaged(other)


# Interrupted and resumed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "buffers"),
    [(2, "copy"), (7, "copy"), (8, "copy"), (10, "copy"), (11, "copy"), (9, "average"), (13, "average")],
)
def test_a_fit_interrupted_in_training_or_validation_resumes_with_the_same_bits(tmp_path, at, buffers):
    whole = make(tmp_path / "whole", callbacks=(EMA(0.9, buffers=buffers),))
    whole.fit(3)
    expected = outcome(whole)
    learn = make(tmp_path / "resumed", callbacks=(EMA(0.9, buffers=buffers), Interrupt(at)))
    learn.fit(3)
    assert learn.stop_reason == "interrupted by a test"
    again = make(tmp_path / "resumed", callbacks=(EMA(0.9, buffers=buffers),), seed=5)
    again.fit(3, resume="must")
    assert not differs(outcome(again), expected)
    shutil.rmtree(tmp_path / "resumed")


def test_a_fit_that_is_ended_already_has_the_averages_again(tmp_path):
    whole = make(tmp_path, callbacks=(EMA(0.9),))
    whole.fit(2)
    again = make(tmp_path, callbacks=(EMA(0.9),), seed=5)
    again.fit(2, resume="must")
    assert not differs(outcome(again)["weights"], outcome(whole)["weights"])


# What it refuses ------------------------------------------------------------------------------------------


def test_two_averages_are_refused_with_both_names(make_learner):
    learn = make_learner(callbacks=[EMA(), EMA(0.9, name="slow")])
    with pytest.raises(ValueError, match=r"EMA and EMA \('slow'\)"):
        learn.fit(1)
    with pytest.raises(ValueError, match="two callbacks are called 'ema'"):
        make_learner(callbacks=[EMA(), EMA()])


def test_a_window_that_would_leave_the_averages_in_the_model_is_refused(make_learner):
    for window in ({"until": "1 epoch"}, {"every": "2 epochs"}):
        with pytest.raises(ValueError, match="start= alone"):
            make_learner(callbacks=[When(EMA(), **window)]).fit(1)


def test_it_can_begin_late_and_now_and_then(make_learner):
    learn = make_learner(
        callbacks=[
            When(EMA(0.5), start="4 steps"),
        ]
    )
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2
    learn = make_learner(callbacks=[When(EMA(0.5), every="3 steps")])
    learn.fit(2)
    assert learn.callbacks.ema.n_updates == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"decay": 1},
        {"decay": -0.1},
        {"decay": "0.9"},
        {"decay": True},
        {"decay": float("nan")},
        {"warmup": 10},
        {"buffers": "mean"},
        {"at_end": True},
    ],
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"EMA\({next(iter(wrong))}="):
        EMA(**wrong)
