"""Losses that cannot be trained, or compare the wrong things, are refused before the first weight changes."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from shaped import learner_of
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import Order, on

ELEMENTWISE = [
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits),
    *(F.poisson_nll_loss, F.kl_div, F.soft_margin_loss),
    *(
        nn.MSELoss(),
        nn.L1Loss(),
        nn.SmoothL1Loss(),
        nn.HuberLoss(),
        nn.BCEWithLogitsLoss(),
        nn.PoissonNLLLoss(),
    ),
    *(nn.KLDivLoss(reduction="sum"), nn.SoftMarginLoss()),
    *(partial(F.mse_loss, reduction="sum"), partial(partial(F.huber_loss, delta=2.0), reduction="mean")),
]


@pytest.mark.parametrize("loss_func", ELEMENTWISE, ids=title_of)
def test_a_column_against_a_row_is_an_error_for_every_loss_of_torch(loss_func):
    learn = learner_of((4, 1), (4,), loss_func)
    with pytest.raises(ValueError, match=r"preds have shape \(4, 1\) and targets \(4,\).*\(4, 4\)") as caught:
        learn.fit(1)
    assert "`targets.unsqueeze(-1)`" in str(caught.value)
    assert "`preds.squeeze(-1)`" in str(caught.value)
    assert learn.global_step == 0


def test_a_loss_of_torch_in_a_partial_is_recognized():
    with pytest.raises(ValueError, match="as many outputs per item"):
        learner_of((4, 3), (4, 1), partial(F.mse_loss, reduction="sum")).fit(1)


@pytest.mark.parametrize(
    ("preds", "targets", "hint"),
    [
        ((4,), (4, 1), "`targets.squeeze(-1)`"),
        ((4, 1), (1, 4), "`targets.reshape(4, 1)`"),
        ((4, 3), (4, 1), "as many outputs per item"),
        ((4,), (), "as many outputs per item"),
        ((4, 4), (4,), "as many outputs per item"),
        ((1, 3), (1, 1), "as many outputs per item"),
    ],
)
def test_any_two_shapes_that_broadcast_are_an_error_for_a_loss_of_torch(preds, targets, hint):
    with pytest.raises(ValueError, match="with the targets of other items") as caught:
        learner_of(preds, targets, nn.MSELoss()).fit(1)
    assert hint in str(caught.value)


def r2_loss(preds, targets):
    return F.mse_loss(preds, targets.unsqueeze(1)) / targets.var()


def ranking_loss(preds, targets):
    wanted = (targets[:, None] - targets[None, :]).sign()
    return (1 - (preds - preds.T) * wanted).relu().mean()


def contrastive_loss(preds, targets):
    alike = (targets[:, None] == targets[None, :]).float()
    return F.binary_cross_entropy_with_logits(preds @ preds.T, alike)


def noisy_loss(preds, targets):
    return (preds.squeeze(1) - targets + torch.randn(len(targets)) * 0.1).square().mean()


class Squeezing(nn.MSELoss):
    def forward(self, preds, targets):
        return super().forward(preds.flatten(), targets)


RIGHT = {
    "squeeze": lambda preds, targets: F.mse_loss(preds.squeeze(-1), targets),
    "unsqueeze": lambda preds, targets: F.mse_loss(preds, targets.unsqueeze(1)),
    "none": lambda preds, targets: (preds - targets[:, None]).square().mean(),
    "view_as": lambda preds, targets: (preds - targets.view_as(preds)).abs().mean(),
    "reshape": lambda preds, targets: (preds.reshape(targets.shape) - targets).abs().mean(),
    "column": lambda preds, targets: (preds[:, 0] - targets).abs().sum(),
    "cast": lambda preds, targets: F.binary_cross_entropy_with_logits(preds[:, 0], (targets > 0.5).float()),
    "r2": r2_loss,
    "ranking": ranking_loss,
    "contrastive": contrastive_loss,
    "noise": noisy_loss,
    "module": Squeezing(),
    "linear": lambda preds, targets: (preds - targets).mean(),  # the same each with each
    "fixed size": lambda preds, targets: (preds.flatten() * torch.ones(40) - targets).square().mean(),
}


@pytest.mark.parametrize("loss_func", RIGHT.values(), ids=RIGHT)
def test_a_users_loss_that_handles_the_shapes_is_allowed(loss_func):
    learn = learner_of((40, 1), (40,), loss_func)
    learn.fit(2)
    assert learn.global_step == 2


def sum_over_outputs(preds, targets):
    return (preds - targets).square().sum(1).mean()


class Weighted(nn.Module):
    def __init__(self, n_items=40):
        super().__init__()
        self.register_buffer("weights", torch.rand(n_items))
        self.n_calls = 0

    def forward(self, preds, targets):
        self.n_calls += 1
        return (self.weights * (preds - targets) ** 2).mean()


class Drawing(Weighted):
    def forward(self, preds, targets):
        noise = random.random() + np.random.rand() + torch.rand(1)
        return super().forward(preds + noise, targets)


class Noisy(nn.MSELoss):
    def forward(self, preds, targets):
        return super().forward(preds + torch.randn(preds.shape) * 0.1, targets)


WRONG = {
    "mean square": lambda preds, targets: ((preds - targets) ** 2).mean(),
    "root": lambda preds, targets: ((preds - targets) ** 2).mean().sqrt(),
    "torch's": lambda preds, targets: F.mse_loss(preds, targets),
    "log cosh": lambda preds, targets: (preds - targets).cosh().log().sum(),
    "product": lambda preds, targets: -(preds * targets).mean() + preds.square().mean(),
    "keywords": lambda preds, targets: torch.sub(input=preds, other=targets).abs().mean(),
    "sum over outputs": sum_over_outputs,
    "weights": Weighted(),
    "noise": Noisy(),
    "partial": partial(lambda preds, targets, power: ((preds - targets).abs() ** power).mean(), power=1.5),
    "where": lambda preds, targets: torch.where(targets > 0.5, preds, -preds).exp().mean(),
    "not reduced": lambda preds, targets: (preds - targets) ** 2,
}


@pytest.mark.parametrize("loss_func", WRONG.values(), ids=WRONG)
def test_a_users_loss_that_compares_each_with_each_is_an_error(loss_func):
    with pytest.raises(ValueError, match=r"`targets\.unsqueeze\(-1\)`"):
        learner_of((40, 1), (40,), loss_func).fit(1)


@pytest.mark.parametrize(
    "targets", [torch.zeros(40), torch.ones(40), torch.ones(40).long(), torch.arange(40) % 2]
)
def test_constant_or_integer_targets_do_not_hide_the_error(targets):
    with pytest.raises(ValueError, match="with the targets of other items"):
        learner_of((40, 1), targets, WRONG["mean square"]).fit(1)


@pytest.mark.parametrize(
    "shapes", [((40,), (40, 1)), ((1, 40), (40, 1)), ((6, 6, 1), (6, 6)), ((40,), (40, 1, 1))]
)
def test_other_shapes_that_multiply_are_an_error(shapes):
    with pytest.raises(ValueError, match="with the targets of other items"):
        learner_of(*shapes, WRONG["mean square"]).fit(1)


@pytest.mark.parametrize("preds", [(1, 1), (1,)])
@pytest.mark.parametrize("targets", [(1,), (1, 1), ()])
def test_a_batch_of_one_compares_it_with_itself(preds, targets):
    learner_of(preds, targets, WRONG["mean square"]).fit(1)
    learner_of(preds, targets, nn.PoissonNLLLoss()).fit(1)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
@pytest.mark.parametrize("loss_func", [F.mse_loss, WRONG["mean square"]])
def test_equal_shapes_are_allowed(shape, loss_func):
    learner_of(shape, shape, loss_func).fit(1)


@pytest.mark.parametrize(
    "loss_func", [F.cross_entropy, nn.CrossEntropyLoss(), lambda p, t: F.cross_entropy(p, t)]
)
def test_scores_of_classes_are_allowed(loss_func):
    learner_of((4, 3), torch.tensor([0, 1, 2, 0]), loss_func).fit(1)
    learner_of((4, 4), torch.tensor([0, 1, 2, 0]), loss_func).fit(1)
    learner_of((4, 3, 5), torch.zeros(4, 5).long(), loss_func).fit(1)


def test_hand_written_losses_may_broadcast_other_numbers_of_elements():
    learner_of((4, 3), (4, 1), WRONG["mean square"]).fit(1)


@pytest.mark.parametrize("wrap", [lambda t: {"scores": t}, lambda t: (t, t)], ids=["dict", "tuple"])
def test_outputs_of_several_tensors_are_allowed(wrap):
    learn = learner_of(
        (4, 1), (4,), lambda preds, targets: tensor_of(preds).squeeze(1).sub(targets).square().mean()
    )
    learn.model.register_forward_hook(lambda module, inputs, output: wrap(output))
    learn.fit(1)


def tensor_of(preds):
    return preds["scores"] if isinstance(preds, dict) else preds[0]


def test_a_callback_that_squeezes_the_predictions_is_called_before_the_check():
    @on("after_pred", order=Order.SAVE)
    def squeeze(learn):
        learn.preds = learn.preds.squeeze(-1)

    learner_of((4, 1), (4,), F.mse_loss, callbacks=[squeeze]).fit(1)


def test_the_probe_changes_neither_random_states_nor_the_loss():
    weighted = Drawing(4)
    learn = learner_of((4, 1), (4,), weighted)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match="with the targets of other items"):
        learn.fit(1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert weighted.n_calls == 0


def test_the_probe_is_small_for_many_items():
    learn = learner_of(
        (200_000, 1), (200_000,), WRONG["mean square"]
    )  # comparing each with each would take 160 GB
    with pytest.raises(ValueError, match="with the targets of other items"):
        learn.fit(1)


@pytest.mark.parametrize(
    "loss_func", [nn.MSELoss(reduction="none"), lambda preds, targets: (preds - targets) ** 2]
)
def test_a_loss_that_is_not_reduced_is_refused_with_its_shape(loss_func):
    with pytest.raises(ValueError, match=r"the loss has shape \(4, 1\).*reduce it.*loss.mean\(\)"):
        learner_of((4, 1), (4, 1), loss_func).fit(1)


def square(preds, targets):
    return (preds - targets).square().mean()


@pytest.mark.parametrize(
    ("loss_func", "kind", "message"),
    [
        (lambda preds, targets: None, TypeError, "the loss is None.*`return`"),
        (
            lambda preds, targets: square(preds, targets).item(),
            TypeError,
            r"the loss is .*\(float\).*without .item",
        ),
        (lambda preds, targets: np.float64(1.0), TypeError, "no gradient"),
        (lambda preds, targets: np.ones(3), TypeError, "no gradient"),
        (lambda preds, targets: (square(preds, targets), 1), TypeError, "the loss is a tuple of 2"),
        (lambda preds, targets: square(preds, targets) * 1j, TypeError, "complex64"),
        (
            lambda preds, targets: square(preds, targets).detach(),
            ValueError,
            r"1 of 1.*predictions have a gradient.*detach",
        ),
        (
            lambda preds, targets: (preds > targets).sum(),
            ValueError,
            "predictions have a gradient, so the loss function",
        ),
        (lambda preds, targets: square(preds.detach(), targets), ValueError, "predictions have a gradient"),
    ],
    ids=["None", "float", "numpy", "array", "tuple", "complex", "detached", "int", "detached preds"],
)
def test_a_loss_that_cannot_be_differentiated_is_reported_with_its_kind(loss_func, kind, message):
    with pytest.raises(kind, match=message):
        learner_of((4, 1), (4, 1), loss_func).fit(1)


def test_a_model_and_a_loss_that_detach_the_gradient_have_different_messages():
    learn = learner_of((4, 1), (4, 1), F.mse_loss)
    learn.model.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(ValueError, match="predictions have no gradient either, so the model detaches it"):
        learn.fit(1)


def test_a_missing_loss_function_is_reported():
    with pytest.raises(TypeError, match=r"loss_func is None.*a tensor of shape \(4, 1\).*no .loss"):
        learner_of((4, 1), (4, 1), None).fit(1)
