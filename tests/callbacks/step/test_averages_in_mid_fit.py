"""Averages of weights and buffers that are replaced in mid-fit."""

from __future__ import annotations

import pytest
import torch
from ground.replaced import (
    Running,
    after_epoch,
    assert_same,
    at,
    doubles,
    learner_of,
    line,
    swap_model,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import (
    EMA,
    SWA,
    LearnerWarning,
    Order,
    on,
)


def replace_weight(model, optimizer) -> None:
    model.weight = nn.Parameter(torch.ones_like(model.weight))
    optimizer.param_groups[0]["params"][0] = model.weight


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


@pytest.mark.parametrize("event", ["before_epoch", "before_train"])
def test_a_weight_that_is_changed_while_the_model_has_the_averages_is_named(event):
    @on(event, name="halves")
    def halves(learn):
        if learn.epoch == 1:
            with torch.no_grad():
                learn.model.weight.mul_(0.5)

    learn = learner_of(line(), EMA(0.5), halves)
    if event == "before_train":
        learn.fit(3)  # a warning would be an error
    else:
        with pytest.warns(LearnerWarning, match=r"EMA: weight changed in epoch 1 .* lost") as caught:
            learn.fit(3)
        assert len(caught) == 1


def test_a_weight_that_is_restored_after_a_look_causes_no_warning():
    @on("after_epoch", name="looks")
    def looks(learn):
        weight, kept = learn.model.weight, learn.model.weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
            weight.copy_(kept)

    learn = learner_of(line(), EMA(0.5), looks)
    learn.fit(3)  # a warning would be an error
