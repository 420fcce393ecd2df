"""Layers of batch norm that stay frozen, and dropout that stays on in prediction."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from resumed import differs
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import SWA, BatchNormFreeze, MCDropout, Metrics, Recorder, When, ZeroGrad, on
from learner import Data, Learner


def learner_of(*callbacks: Any, model: nn.Module, **options: Any) -> Any:
    data = options.pop("data", None) or Data(line_batches(3), line_batches(2))
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return Learner(
        model, data, F.mse_loss, optimizer, callbacks, defaults=(ZeroGrad, Metrics, Recorder), **options
    )


# BatchNormFreeze ------------------------------------------------------------------------------------------


def norms(*, frozen: int | None = 1) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 1))
    if frozen is not None:
        model[frozen].requires_grad_(requires_grad=False)
    return model


@pytest.mark.parametrize(("layers", "held"), [("frozen", [1]), ("all", [1, 3])])
def test_the_fit_is_that_of_a_loop_by_hand_in_which_the_layers_are_in_evaluation_mode(layers, held):
    learn = learner_of(BatchNormFreeze(layers), model=norms())
    learn.fit(2)
    model = norms()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train()
        for n in held:
            model[n].eval()
        for inputs, targets in line_batches(3):
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not differs({**learn.model.state_dict()}, {**model.state_dict()})


def test_a_layer_that_is_unfrozen_between_epochs_trains_from_then_on():
    @on("after_epoch")
    def unfreeze(learn):
        learn.model[1].requires_grad_(requires_grad=True)

    means = []
    look = on("after_train")(lambda learn: means.append(learn.model[1].running_mean.clone()))
    learn = learner_of(BatchNormFreeze(), unfreeze, look, model=norms())
    learn.fit(2)
    assert torch.equal(means[0], torch.zeros(4))
    assert not torch.equal(means[1], torch.zeros(4))


def test_it_holds_also_where_something_puts_the_model_into_training_mode():
    @on("after_batch")
    def train(learn):
        learn.model.train()

    learn = learner_of(BatchNormFreeze(), train, model=norms())
    learn.fit(2)
    assert torch.equal(learn.model[1].running_mean, torch.zeros(4))


def test_a_model_that_is_one_layer_of_batch_norm_is_held_too():
    learn = learner_of(BatchNormFreeze("all"), model=nn.BatchNorm1d(1))
    learn.fit(2)
    assert torch.equal(learn.model.running_mean, torch.zeros(1))


@pytest.mark.parametrize("was", [True, False])
def test_the_next_fit_without_it_trains_with_the_modes_from_before(was):
    learn = learner_of(BatchNormFreeze(), model=norms())
    learn.model[3].train(was)
    learn.fit(1)
    learn.remove_callbacks(BatchNormFreeze)
    seen = []

    @on("before_batch")
    def look(learn):
        seen.append([module.training for module in learn.model])

    learn.fit(1, callbacks=[look])
    assert seen[0] == [True, True, True, was, True]


def test_without_it_within_a_fit_the_layers_train_again():
    @on("after_batch")
    def leave(learn):
        if learn.training and learn.batch_idx == 1:
            learn.remove_callbacks(learn.callbacks.batch_norm_freeze)

    learn = learner_of(BatchNormFreeze(), leave, model=norms())
    learn.fit(1)
    assert int(learn.model[1].num_batches_tracked) == 1


def test_it_can_start_late():
    learn = learner_of(When(BatchNormFreeze(), start="1 epoch"), model=norms())
    learn.fit(2)
    assert int(learn.model[1].num_batches_tracked) == 3


@pytest.mark.parametrize("layers", ["frozen", "all"])
def test_swa_leaves_the_statistics_of_held_layers_alone(layers):
    learn = learner_of(BatchNormFreeze(layers), SWA(0.5), model=norms())
    learn.fit(2)
    assert torch.equal(learn.model[1].running_mean, torch.zeros(4))
    assert torch.equal(learn.model[3].running_mean, torch.zeros(4)) == (layers == "all")


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="'frozen' or 'all'"):
        BatchNormFreeze("none")  # type: ignore[arg-type]


# MCDropout ------------------------------------------------------------------------------------------------


def dropped(p: float = 0.5) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 16), nn.BatchNorm1d(16), nn.Dropout(p), nn.ReLU(), nn.Linear(16, 1))


def by_hand(model, inputs, n):
    model.eval()
    model[2].train()
    with torch.no_grad():
        found = torch.stack([model(inputs) for _ in range(n)])
    model.train()
    return found.mean(0), found.std(0)


def test_mean_and_spread_are_those_of_passes_by_hand_bit_for_bit():
    learn = learner_of(model=dropped())
    learn.fit(2)
    inputs = torch.rand(5, 1)
    torch.manual_seed(7)
    expected = by_hand(learn.model, inputs, 12)
    torch.manual_seed(7)
    assert not differs(MCDropout(12).predict(learn, inputs), expected)


def test_it_leaves_modes_random_states_and_callbacks_unchanged():
    learn = learner_of(model=dropped())
    modes = [module.training for module in learn.model.modules()]
    before, callbacks = torch.get_rng_state(), list(learn.callbacks)
    first = MCDropout(5).predict(learn, torch.rand(5, 1, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
    assert modes == [module.training for module in learn.model.modules()]
    assert callbacks == list(learn.callbacks)
    again = MCDropout(5).predict(learn, torch.rand(5, 1, generator=torch.Generator().manual_seed(0)))
    assert not differs(first, again)


def test_as_a_callback_it_changes_predictions_and_nothing_else():
    learn, plain = learner_of(MCDropout(5), model=dropped()), learner_of(model=dropped())
    losses = []
    for each in (learn, plain):
        torch.manual_seed(1)
        losses.append(list(each.fit(2)["valid_loss"]))
    assert losses[0] == losses[1]
    assert learn.validate() == plain.validate()
    assert not differs({**learn.model.state_dict()}, {**plain.model.state_dict()})
    preds, targets = learn.get_preds()
    assert preds.shape == targets.shape == learn.callbacks.mc_dropout.spread.shape
    assert not torch.equal(preds, plain.get_preds()[0])


def test_without_dropout_the_spread_is_zero():
    learn = learner_of(model=dropped(0.0))
    inputs = torch.rand(5, 1)
    mean, spread = MCDropout(3).predict(learn, inputs)
    assert torch.allclose(mean, learn.predict(inputs))
    assert spread.abs().max() < 1e-6


def test_what_is_averaged_can_be_chosen():
    torch.manual_seed(0)
    learn = learner_of(model=nn.Sequential(nn.Linear(1, 8), nn.Dropout(), nn.Linear(8, 3)))
    mean, _ = MCDropout(activation=partial(torch.softmax, dim=1)).predict(learn, torch.rand(5, 1))
    assert torch.allclose(mean.sum(1), torch.ones(5))


def test_another_callback_that_overrides_forward_is_asked():
    calls = []

    @on("forward")
    def forward(learn):
        calls.append(learn.model[2].training)
        learn.preds = learn.model(*learn.inputs)

    learn = learner_of(forward, model=dropped())
    MCDropout(3).predict(learn, torch.rand(5, 1))
    assert calls == [False, True, True, True]


def test_an_error_in_a_pass_leaves_dropout_off():
    learn = learner_of(model=dropped())
    handle = learn.model[4].register_forward_hook(lambda *_: 1 / 0 if learn.model[2].training else None)
    learn.model.eval()
    with pytest.raises(ZeroDivisionError):
        MCDropout(3).predict(learn, torch.rand(5, 1))
    handle.remove()
    assert not learn.model[2].training


def test_impossible_arguments_are_refused():
    for wrong in (1, 2.5, True):
        with pytest.raises(ValueError, match="number, 2 or more"):
            MCDropout(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass a function"):
        MCDropout(activation="softmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no dropout layer"):
        MCDropout().predict(learner_of(model=nn.Linear(1, 1)), torch.rand(5, 1))
    with pytest.raises(TypeError, match="activation=, a function"):
        MCDropout(activation=lambda output: (output,)).predict(learner_of(model=dropped()), torch.rand(5, 1))  # type: ignore[arg-type]
