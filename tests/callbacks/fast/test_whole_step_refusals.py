"""What WholeStep refuses, by name."""

from __future__ import annotations

import pytest
import torch
from compiled_steps import Settled, learner_of, once
from torch.nn import functional as F

from callbacks import (
    SAM,
    Callback,
    Compile,
    CutMix,
    LabelMix,
    LeanStep,
    MixedPrecision,
    MixUp,
    WholeStep,
    ZeroGrad,
    on,
)


def change_preds(learn):
    learn.preds = learn.preds * 2


def change_loss(learn):
    learn.loss_grad = learn.loss_grad * 2


def change_gradients(learn):
    next(learn.model.parameters()).grad.mul_(2)


def replace_gradients(learn):
    each = next(learn.model.parameters())
    each.grad = each.grad * 2


def write_to_preds(learn):
    with torch.no_grad():
        learn.preds.mul_(2)


def change_targets(learn):
    learn.targets = learn.targets * 2


def write_to_targets(learn):
    learn.targets.mul_(2)


def change_loss_func(learn):
    learn.loss_func = F.l1_loss


def differentiate(learn):
    learn.loss_grad.backward(retain_graph=True)


def hook_preds(learn):
    learn.preds.register_hook(lambda grad: 0 * grad)


def penalize_preds(learn):
    learn.loss_grad = learn.loss_grad + learn.preds.pow(2).sum()


def test_a_term_whose_gradients_would_be_missing_is_named():
    learn = learner_of(on("before_backward", name="meddler")(penalize_preds))
    with pytest.raises(ValueError, match=r"meddler.*the loss by more than a scale"):
        learn.fit(1)


def drop_grads_of_layer(learn):
    learn.model.layer.weight.register_hook(lambda grad: 0 * grad)


FREEZING = [lambda learn: learn.model.layer.requires_grad_(False), drop_grads_of_layer]


@pytest.mark.parametrize("change", FREEZING)
def test_the_trained_parameters_may_not_change_between_forward_and_backward(change):
    learn = learner_of(once(change, "after_loss")(), model=Settled())
    with pytest.raises(ValueError, match="which parameters are trained"):
        learn.fit(2)


@pytest.mark.parametrize("make", [MixUp, lambda: MixedPrecision("fp16")])
def test_a_callback_that_would_be_silenced_is_refused_in_mid_fit_too(make):
    learn = learner_of(once(lambda learn: learn.add_callbacks(make()))())
    with pytest.raises(ValueError, match="leave one of them out"):
        learn.fit(2)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (MixUp, "MixUp"),
        (CutMix, "CutMix"),
        (LabelMix, "LabelMix"),
        (lambda: Compile("eager"), "Compile"),
        (lambda: MixedPrecision("fp16"), "use MixedPrecision\\('bf16'\\)"),
    ],
)
def test_a_callback_that_would_be_silenced_is_refused_by_name(callback, words):
    with pytest.raises(ValueError, match=words):
        learner_of(callback()).fit(1)


def test_a_callback_that_surrounds_an_operation_is_refused():
    class Around(Callback):
        surrounds = ("backward",)

    with pytest.raises(ValueError, match=r"Around.*surrounds 'backward'"):
        learner_of(Around()).fit(1)


@pytest.mark.parametrize("other", [SAM, LeanStep, ZeroGrad, lambda: WholeStep("eager", name="second")])
def test_another_implementation_is_refused(other):
    with pytest.raises(ValueError, match="WholeStep and"):
        learner_of(other())


@pytest.mark.parametrize(
    "options",
    [
        {"backend": 3},
        {"backend": ""},
        {"backend": "inducter"},
        {"n_programs": 0},
        {"n_programs": True},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="WholeStep"):
        WholeStep(**options)


@pytest.mark.parametrize("update", ["compiled", "ordinary", "eager"])
def test_a_setting_that_has_no_effect_is_deprecated(update):
    with pytest.warns(DeprecationWarning, match=f"update={update!r}.*Leave the argument out"):
        WholeStep(update=update)


@pytest.mark.parametrize(
    ("event", "function", "words"),
    [
        ("after_pred", change_preds, "the predictions"),
        ("after_pred", write_to_preds, "something that the loss reads"),
        ("after_pred", change_targets, "targets or loss function"),
        ("after_pred", write_to_targets, "something that the loss reads"),
        ("after_pred", change_loss_func, "targets or loss function"),
        ("after_loss", hook_preds, "the hooks or gradients of loss or predictions"),
        ("after_loss", differentiate, "the hooks or gradients of loss or predictions"),
    ],
)
def test_a_callback_that_changes_what_was_used_already_is_named(event, function, words):
    learn = learner_of(on(event, name="meddler")(function))
    with pytest.raises(ValueError, match="meddler") as caught:
        learn.fit(1)
    assert words in str(caught.value)
