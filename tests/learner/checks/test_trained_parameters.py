"""Errors of model and optimizer are reported before the first weight changes, with a fix."""

from __future__ import annotations

import pytest
import torch
from shaped import SGD, learner_of
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, LearnerWarning, Order, ZeroGrad, on
from learner import Data, Learner


def test_a_frozen_model_is_reported_with_the_number_of_its_tensors():
    model = nn.Linear(1, 1).requires_grad_(False)
    learn = Learner(model, Data([(torch.ones(4, 1),) * 2]), F.mse_loss, SGD, defaults=(ZeroGrad,))
    with pytest.raises(ValueError, match=r"the model is frozen \(0 of 2 tensors require"):
        learn.fit(1)


def test_parameters_frozen_later_are_reported_before_the_first_step():
    learn = learner_of((4, 1), (4, 1), F.mse_loss)
    learn.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"the model is frozen \(0 of 1 tensor requires"):
        learn.fit(1)


def test_a_callback_that_unfreezes_is_called_before_the_check():
    learn = learner_of((4, 1), (4, 1), F.mse_loss)
    learn.model.requires_grad_(False)

    @on("before_epoch", order=Order.SAVE)
    def unfreeze(learn):
        learn.model.requires_grad_(True)

    learn.fit(1, callbacks=[unfreeze])
    assert learn.global_step == 1


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1), nn.Linear(1, 1))


def learner_with(model: nn.Module, optimizer, **options) -> Learner:
    data = Data([(torch.ones(4, 1),) * 2] * 2)
    return Learner(model, data, F.mse_loss, optimizer, defaults=(ZeroGrad,), **options)


def test_an_optimizer_of_another_model_is_refused_with_the_counts():
    learn = learner_with(two_layers(), SGD(two_layers().parameters()))
    with pytest.raises(
        ValueError, match="0 of 6 trainable tensors are in the optimizer, which contains 6 others"
    ):
        learn.fit(1)
    assert learn.global_step == 0


def test_a_replaced_layer_raises_a_warning_with_its_names():
    learn = learner_with(two_layers(), SGD)
    learn.model[1] = nn.Linear(2, 1)
    with pytest.warns(
        LearnerWarning, match="4 of 6 trainable tensors.*does not train 1.weight, 1.bias"
    ) as caught:
        learn.fit(3)
    assert len(caught) == 1


def test_frozen_layers_may_be_missing_from_the_optimizer():
    model = two_layers()
    model[0].requires_grad_(False)
    learner_with(model, SGD).fit(1)


def test_an_optimizer_may_also_hold_parameters_of_the_loss():
    model = two_layers()
    learner_with(model, SGD([*model.parameters(), nn.Parameter(torch.ones(1))])).fit(1)


def test_a_callback_that_overrides_step_is_responsible_for_its_parameters():
    class Steps(Callback):
        def step(self, learn):
            pass

    learner_with(two_layers(), SGD(two_layers().parameters()), callbacks=[Steps]).fit(1)


def replace_weight(learn):
    learn.model[0].weight = nn.Parameter(torch.zeros(2, 1))


def replace_layer(learn):
    learn.model[1] = nn.Linear(2, 1)


def replace_model(learn):
    learn.model = two_layers()


def add_layer(learn):
    learn.model.append(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (replace_weight, "0.weight were added or replaced"),
        (replace_layer, "1.weight, 1.bias were added or replaced"),
        (replace_model, "0.weight, 0.bias.*and 1 more were added or replaced"),
        (add_layer, "3.weight, 3.bias were added or replaced"),
    ],
)
def test_parameters_replaced_in_training_raise_a_warning_at_the_next_epoch(change, names):
    @on("after_batch")
    def replace(learn):
        if learn.epoch == 1 and learn.batch_idx == 1:
            change(learn)

    with pytest.warns(LearnerWarning, match=rf"{names}.*before epoch 2 of 4.*not trained") as caught:
        learner_with(two_layers(), SGD, callbacks=[replace]).fit(4)
    assert len(caught) == 1


def test_a_replaced_layer_that_is_added_to_the_optimizer_is_allowed():
    @on("after_epoch")
    def replace(learn):
        if learn.epoch == 0:
            replace_layer(learn)
            learn.optimizer.add_param_group({"params": list(learn.model[1].parameters())})

    learner_with(two_layers(), SGD, callbacks=[replace]).fit(3)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_the_optimizer_holds_twice_is_refused():
    model = two_layers()
    with pytest.raises(ValueError, match="contains 6 parameters twice"):
        learner_with(model, SGD([*model.parameters(), *model.parameters()])).fit(1)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_fit_without_gradients_around_it_is_refused(context):
    learn = learner_with(two_layers(), SGD)
    with context(), pytest.raises(ValueError, match=rf"inside torch.{context.__name__}\(\)"):
        learn.fit(1)
    learn.fit(1)


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = two_layers()
    with pytest.raises(ValueError, match=r"made inside torch.inference_mode\(\)"):
        learner_with(model, SGD).fit(1)


def test_a_model_left_in_evaluation_mode_is_trained_in_training_mode():
    learn = learner_with(two_layers().eval(), SGD)
    modes = []

    @on("after_pred")
    def note(learn):
        modes.append(learn.model.training)

    learn.fit(1, callbacks=[note])
    assert modes == [True, True]


def test_a_lazy_layer_is_trained():
    learner_with(nn.Sequential(nn.LazyLinear(1)), SGD).fit(1)
