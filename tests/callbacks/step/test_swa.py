"""Stochastic weight averaging, compared with that of torch."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from resumed import Interrupt, Noisy, differs, make, outcome
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.swa_utils import SWALR, AveragedModel, get_swa_multi_avg_fn, update_bn
from torch.utils.data import DataLoader

from callbacks import (
    EMA,
    SWA,
    EarlyStopping,
    LearnerWarning,
    LRMonitor,
    ParamScheduler,
    TorchScheduler,
    When,
    ZeroGrad,
    on,
)
from callbacks.schedule.annealers import lin
from learner import DEFAULT_CALLBACKS, Data, Learner


def model_of(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4, momentum=0.2)]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(4, 1))


def learner_of(*callbacks: Any, data: Any = None, model: Any = None, **options: Any) -> Any:
    options.setdefault("defaults", (ZeroGrad,))
    data = data or Data(line_batches(3), line_batches(2))
    model = model or model_of()
    return Learner(
        model, data, F.mse_loss, partial(torch.optim.SGD, lr=0.1, momentum=0.9), callbacks, **options
    )


# The numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [None, 0.02])
@pytest.mark.parametrize("start", [0.5, 3])
def test_weights_and_statistics_are_those_of_torch_bit_for_bit(start, lr):
    learn = learner_of(SWA(start, lr=lr))
    learn.fit(6)

    plain = model_of()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    theirs = AveragedModel(plain, multi_avg_fn=get_swa_multi_avg_fn())  # what it takes on a GPU by itself
    for epoch in range(6):
        if epoch >= 3 and lr:
            optimizer.param_groups[0]["lr"] = lr
        for inputs, targets in line_batches(3):
            F.mse_loss(plain(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        if epoch >= 3:
            theirs.update_parameters(plain)
    update_bn(line_batches(3), theirs)
    assert not differs({**learn.model.state_dict()}, {**theirs.module.state_dict()})
    assert learn.callbacks.swa.n_averaged == 3
    assert [learn.model[n].momentum for n in (1, 3)] == [0.1, 0.2]


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_the_rate_is_annealed_as_by_torch(anneal):
    learn = learner_of(
        SWA(2, lr=0.01, anneal_epochs=3, anneal=anneal), LRMonitor(), defaults=DEFAULT_CALLBACKS
    )
    learn.fit(7)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs, rates = SWALR(optimizer, 0.01, anneal_epochs=3, anneal_strategy=anneal), []
    for _ in range(5):
        optimizer.step()
        theirs.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert list(learn.history["lr_0"]) == pytest.approx([0.1, 0.1, *rates])
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_that_is_a_tensor_stays_the_tensor_and_gets_its_value_back():
    rate = torch.tensor(0.1)
    learn = learner_of(SWA(1, lr=0.01))
    learn.optimizer = torch.optim.Adam(learn.model.parameters(), lr=rate, capturable=False, foreach=False)
    seen = []
    learn.fit(2, callbacks=[on("after_train")(lambda learn: seen.append(float(rate)))])
    assert seen == pytest.approx([0.1, 0.01])
    assert learn.optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.1)


# What it leaves alone -------------------------------------------------------------------------------------


def test_the_pass_over_the_training_data_leaves_no_trace_in_random_states():
    generator = torch.Generator().manual_seed(1)
    data = Data(DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator))

    def drawn(*callbacks):
        generator.manual_seed(1)
        torch.manual_seed(0)
        learn = learner_of(
            *callbacks, data=data, model=nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
        )
        learn.fit(2)
        return [torch.rand(1), torch.rand(1, generator=generator)]

    assert drawn(SWA()) == drawn()


def test_the_order_of_the_next_epoch_is_as_without_it():
    def data():
        return Data.from_tensors(torch.arange(12.0)[:, None], torch.zeros(12, 1), 4, valid=None, seed=0)

    learn, plain = learner_of(SWA(), data=data()), learner_of(data=data())
    for each in (learn, plain):
        each.fit(2)
        each.batch = None
    assert learn.data.train.state_dict() == plain.data.train.state_dict()


def test_all_but_batch_norm_is_in_evaluation_mode_while_statistics_are_measured():
    learn = learner_of(SWA(), model=model_of(dropout=0.5))
    modes = []

    @on("after_pred")
    def look(learn):
        if learn.epoch == 1 and not learn.training:
            modes.append([module.training for module in learn.model])

    learn.data.valid = None
    learn.fit(2, callbacks=[look])
    assert modes == [[False, True, False, True, False, False]] * 3


def test_frozen_layers_of_batch_norm_keep_their_statistics():
    learn = learner_of(SWA())
    learn.model[1].requires_grad_(requires_grad=False)
    seen = []
    learn.fit(
        2, callbacks=[on("after_train")(lambda learn: seen.append(learn.model[1].running_mean.clone()))]
    )
    assert torch.equal(learn.model[1].running_mean, seen[-1])


def test_training_is_the_same_until_the_end(capsys):
    learn, plain = learner_of(SWA(), defaults=DEFAULT_CALLBACKS), learner_of(defaults=DEFAULT_CALLBACKS)
    rows, others = learn.fit(4), plain.fit(4)
    assert rows["train_loss"] == others["train_loss"]
    assert rows["valid_loss"] == others["valid_loss"]
    first, second = capsys.readouterr().out.split("epoch  ")[1:]
    assert [line[:40] for line in first.splitlines()] == [line[:40] for line in second.splitlines()]
    assert learn.results == {name: row for name, row in rows[-1].items() if name in learn.results}


def test_a_model_without_batch_norm_has_no_pass_more(make_learner):
    n_seen = []
    learn = make_learner(callbacks=[SWA(), on("before_validate")(n_seen.append)])
    learn.fit(2)
    assert len(n_seen) == 2


def test_an_error_while_statistics_are_measured_gives_the_trained_weights_back():
    @on("before_batch")
    def fail(learn):
        if not learn.training and learn.epoch == 3 and learn.batch_idx == 1:
            raise ZeroDivisionError

    learn, plain = learner_of(SWA(), fail), learner_of()
    for each in (learn, plain):
        each.data.valid = None
    with pytest.raises(ZeroDivisionError):
        learn.fit(4)
    plain.fit(4)
    assert not differs({**learn.model.state_dict()}, {**plain.model.state_dict()})
    assert learn.model[1].momentum == 0.1


# Interrupted and resumed ---------------------------------------------------------------------------------


def made(folder, *callbacks, seed=0):
    learn = make(folder, callbacks=(SWA(0.3, anneal_epochs=2, lr=0.01), *callbacks), seed=seed)
    learn.remove_callbacks(learn.callbacks[EarlyStopping], learn.callbacks[TorchScheduler])
    learn.add_callbacks(EarlyStopping(patience=9, restore_best=False))
    return learn


@pytest.mark.parametrize("at", [5, 9, 11, 25, 31, 33, 40])
def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path, at):
    whole = made(tmp_path / "whole")
    whole.fit(4)
    expected = outcome(whole)
    learn = made(tmp_path / "resumed", Interrupt(at))
    learn.fit(4)
    assert learn.stop_reason == "interrupted by a test"
    again = made(tmp_path / "resumed", seed=5)
    again.fit(4, resume="must")
    assert not differs(outcome(again), expected)


def test_a_fit_that_is_ended_already_has_the_averages_again(tmp_path):
    whole = made(tmp_path)
    whole.fit(2)
    expected = outcome(whole)
    again = made(tmp_path, seed=5)
    again.fit(2, resume="must")
    assert not differs(outcome(again), expected)


# What it refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([SWA(), EMA()], "SWA and EMA both average"),
        ([SWA(), SWA(name="again")], "SWA and SWA .'again'. both average"),
        ([SWA(), EarlyStopping("train_loss")], "restore_best=False"),
        (
            [SWA(lr=0.1), TorchScheduler(partial(ExponentialLR, gamma=0.9))],
            "SWA 'swa' and TorchScheduler 'torch_scheduler' both change lr.* leave lr out of SWA",
        ),
        (
            [SWA(lr=0.1), ParamScheduler({"lr": lin(1, 0)})],
            "SWA 'swa' and ParamScheduler 'param_scheduler' both change lr",
        ),
        ([SWA(7)], "the fit has 2 epochs"),
        ([When(SWA(), until="1 epoch")], "start= alone"),
    ],
)
def test_what_would_undo_it_is_refused(callbacks, words, make_learner):
    with pytest.raises(ValueError, match=words):
        make_learner(callbacks=copy.deepcopy(callbacks)).fit(2)


def test_a_schedule_may_end_where_the_averaging_begins():
    schedule = When(TorchScheduler(partial(ExponentialLR, gamma=0.5)), until="2 epochs")
    learn = learner_of(SWA(2, lr=0.02), schedule, LRMonitor(), defaults=DEFAULT_CALLBACKS)
    learn.fit(4)
    assert list(learn.history["lr_0"]) == pytest.approx([0.1, 0.05, 0.02, 0.02])
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


def test_a_schedule_that_ends_after_the_averaging_begins_is_refused():
    schedule = When(TorchScheduler(partial(ExponentialLR, gamma=0.5)), until="3 epochs")
    with pytest.raises(ValueError, match="SWA 'swa' and TorchScheduler 'torch_scheduler' both change lr"):
        learner_of(SWA(0.5, lr=0.02), schedule).fit(4)


def test_a_recipe_of_a_schedule_clashes_with_its_rate_by_name():
    learn = learner_of(SWA(lr=0.02))
    with pytest.raises(ValueError, match="SWA 'swa' and ParamScheduler 'fit_one_cycle' both change lr"):
        learn.fit_one_cycle(4)
    assert learn.global_step == 0


def test_without_a_rate_of_its_own_it_goes_with_a_schedule_and_leaves_the_rates_alone():
    @on("after_fit")
    def keep(learn):
        learn.optimizer.param_groups[0]["lr"] = 0.5

    learn = learner_of(SWA(), keep)
    learn.fit(2)
    assert learn.optimizer.param_groups[0]["lr"] == 0.5


def test_a_fit_that_ends_before_the_averaging_starts_is_reported(make_learner):
    @on("after_epoch")
    def stop(learn):
        learn.stop("enough")

    learn, plain = make_learner(callbacks=[SWA(), stop]), make_learner()
    with pytest.warns(LearnerWarning, match="ended before epoch 3"):
        learn.fit(4)
    plain.fit(1)
    assert torch.equal(learn.model.weight, plain.model.weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 1.0},
        {"start": -1},
        {"start": True},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": "0.1"},
        {"anneal_epochs": -1},
        {"anneal_epochs": 1.5},
        {"anneal": "exp"},
        {"anneal_epochs": 3},
    ],
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"SWA\({next(iter(wrong))}="):
        SWA(**wrong)
