"""Stochastic weight averaging, compared with that of torch."""

from __future__ import annotations

import pytest
import torch
from ground.averaged import learner_of, model_of
from resumed import Noisy, differs
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_swa_multi_avg_fn, update_bn
from torch.utils.data import DataLoader

from callbacks import (
    SWA,
    LRMonitor,
    on,
)
from learner import DEFAULT_CALLBACKS, Data

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


def test_a_share_of_the_fit_is_a_whole_number_of_epochs(make_learner):
    averaging = SWA(0.58)
    seen = on("after_epoch")(lambda learn: counts.append(averaging.n_averaged))
    counts = []
    make_learner(1, callbacks=[averaging, seen]).fit(50)
    assert counts.index(1) == 29


def test_a_model_without_batch_norm_has_no_additional_pass(make_learner):
    n_seen = []
    learn = make_learner(callbacks=[SWA(), on("before_validate")(n_seen.append)])
    learn.fit(2)
    assert len(n_seen) == 2


def test_an_error_while_statistics_are_measured_restores_the_trained_weights():
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
