"""Hidden state that starts again, and penalties on activations."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from resumed import Crash, differs
from torch import nn
from torch.nn import functional as F

from callbacks import (
    CancelEpoch,
    Checkpoint,
    Metrics,
    Recorder,
    RNNRegularizer,
    RNNReset,
    ValidateEvery,
    ZeroGrad,
    on,
)
from learner import Data, Learner


def texts(n_batches: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_batches, 4, 5, 2, generator=generator)
    return [(each, each.cumsum(1).sum(2, keepdim=True)) for each in x]


class Stateful(nn.Module):
    """A recurrent model that carries its state from batch to batch."""

    def __init__(self, *, in_buffer: bool = True):
        super().__init__()
        self.rnn, self.drop = nn.GRU(2, 6, batch_first=True), nn.Dropout(0.3)
        self.out = nn.Linear(6, 1)
        if in_buffer:
            self.register_buffer("hidden", torch.zeros(1, 4, 6))
        else:
            self.hidden = torch.zeros(1, 4, 6)

    def reset(self):
        self.hidden.zero_()

    def forward(self, x):
        found, hidden = self.rnn(x, self.hidden)
        self.hidden = hidden.detach()
        return self.out(self.drop(found))


def learner_of(*callbacks: Any, model: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    data = options.pop("data", None) or Data(texts(), texts(2))
    optimizer = partial(torch.optim.SGD, lr=0.05)
    model = model or Stateful()
    return Learner(
        model, data, F.mse_loss, optimizer, callbacks, defaults=(ZeroGrad, Metrics, Recorder), **options
    )


# RNNReset -------------------------------------------------------------------------------------------------


def test_each_pass_starts_with_a_reset_hidden_state_as_in_a_loop_by_hand():
    learn = learner_of(RNNReset())
    learn.fit(2)
    torch.manual_seed(0)
    model = Stateful()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for _ in range(2):
        model.reset()
        for inputs, targets in texts():
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.reset()
        model.eval()
        with torch.no_grad():
            losses = [F.mse_loss(model(inputs), targets).item() for inputs, targets in texts(2)]
        model.train()
    assert not differs({**learn.model.state_dict()}, {**model.state_dict()})
    assert learn.results["valid_loss"] == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize("in_buffer", [True, False])
def test_a_validation_in_mid_epoch_leaves_the_hidden_state_of_training(in_buffer):
    found = []
    for callbacks in ([RNNReset()], [RNNReset(), ValidateEvery("1 step")]):
        torch.manual_seed(0)
        learn = learner_of(*callbacks, model=Stateful(in_buffer=in_buffer))
        learn.fit(2)
        found.append(list(learn.history.steps["train_loss"]))
    assert found[0] == found[1]


def test_parts_that_can_be_reset_are_where_the_model_cannot():
    model = nn.Sequential(Stateful(), nn.Identity())
    calls = []
    vars(model[0])["reset"] = lambda: calls.append(1)
    learner_of(RNNReset(), model=model).fit(3)
    assert len(calls) == 6


def test_an_epoch_that_is_left_early_does_not_confuse_the_passes():
    @on("after_batch")
    def leave(learn):
        if learn.training and learn.epoch == 0:
            raise CancelEpoch

    learn = learner_of(RNNReset(), leave)
    learn.fit(2)
    assert learn.callbacks.rnn_reset._hidden == []


def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path):
    def made(folder):
        return learner_of(RNNReset(), Checkpoint(tmp_path / folder, "1 step"))

    whole = made("whole")
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        made("resumed").fit(3, callbacks=[Crash(7)])
    learn = made("resumed")
    learn.fit(3, resume="must")
    assert not differs({**learn.model.state_dict()}, {**whole.model.state_dict()})


def test_a_model_that_cannot_be_reset_is_refused():
    with pytest.raises(ValueError, match=r"neither Sequential nor a submodule has a reset\(\)"):
        learner_of(RNNReset(), model=nn.Sequential(nn.Linear(2, 1))).fit(1)


# RNNRegularizer -------------------------------------------------------------------------------------------


class Reader(nn.Module):
    def __init__(self, kind=nn.LSTM, *, batch_first=True):
        super().__init__()
        self.first = nn.GRU(2, 3, batch_first=batch_first)
        self.rnn = kind(3, 6, batch_first=batch_first)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(6, 1)
        self.batch_first = batch_first
        self.seen: list[Any] = []

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        raw = self.rnn(self.first(x)[0])[0]
        dropped = self.drop(raw)
        self.seen = [raw, dropped]
        found = self.out(dropped)
        return found if self.batch_first else found.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dropout", [None, "drop"])
def test_the_fit_is_that_of_a_loop_by_hand(kind, dropout, batch_first):
    learn = learner_of(RNNRegularizer(2.0, 0.5, dropout=dropout), model=Reader(kind, batch_first=batch_first))
    weights = {name: each.clone() for name, each in learn.model.state_dict().items()}
    torch.manual_seed(2)
    learn.fit(2)
    model = Reader(kind, batch_first=batch_first)
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(2)
    losses = []
    for _ in range(2):
        for inputs, targets in texts():
            loss = F.mse_loss(model(inputs), targets)
            losses.append(loss.item())
            raw, dropped = model.seen
            loss = loss + 2.0 * (dropped if dropout else raw).pow(2).mean()
            raw = raw if batch_first else raw.transpose(0, 1)
            loss = loss + 0.5 * (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, value in learn.model.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert list(learn.history.steps["train_loss"]) == pytest.approx(losses)


def test_nothing_is_left_on_the_model():
    learn = learner_of(RNNRegularizer(), model=Reader())
    learn.fit(1)
    assert not any(module._forward_hooks for module in learn.model.modules())
    assert learn.callbacks.rnn_regularizer._raw is None


def test_with_both_weights_at_0_nothing_changes():
    learn, plain = learner_of(RNNRegularizer(0, 0), model=Reader()), learner_of(model=Reader())
    plain.model.load_state_dict(learn.model.state_dict())
    for each in (learn, plain):
        torch.manual_seed(0)
        each.fit(1)
    assert not differs({**learn.model.state_dict()}, {**plain.model.state_dict()})


def test_a_layer_that_is_missing_or_does_not_run_is_reported():
    with pytest.raises(ValueError, match=r"the model has no nn\.RNN"):
        learner_of(RNNRegularizer(), model=nn.Linear(2, 1)).fit(1)
    with pytest.raises(ValueError, match="Available: first, rnn, drop, out"):
        learner_of(RNNRegularizer(rnn="encoder"), model=Reader()).fit(1)
    with pytest.raises(ValueError, match="no such layer"):
        learner_of(RNNRegularizer(dropout="dropout"), model=Reader()).fit(1)
    model = Reader()
    model.add_module("idle", nn.LSTM(1, 1))
    with pytest.raises(ValueError, match="was not called in this batch"):
        learner_of(RNNRegularizer(), model=model).fit(1)
    with pytest.raises(TypeError, match="pad sequences instead of packing"):
        learner_of(
            RNNRegularizer(rnn="0"),
            model=nn.Sequential(nn.Flatten(), nn.Linear(10, 5), nn.Unflatten(1, (5, 1))),
        ).fit(1)


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"beta": math.nan}, {"alpha": "2"}, {"beta": True}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"RNNRegularizer\({next(iter(wrong))}="):
        RNNRegularizer(**wrong)
