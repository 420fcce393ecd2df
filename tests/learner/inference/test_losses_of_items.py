"""The loss of each item that `get_preds` returns."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import Data, Learner


def make(loss=F.mse_loss, model=None, batches=None):
    torch.manual_seed(0)
    batches = batches or [(torch.rand(n, 3), torch.rand(n, 1)) for n in (4, 4, 2)]
    return Learner(model or nn.Linear(3, 1), Data(batches, batches), loss, defaults=())


def classes(loss, *, ignored=0, shape=()):
    """A learner of three classes that ignores some targets."""
    torch.manual_seed(0)
    batches = []
    for n in (4, 3):
        targets = torch.randint(3, (n, *shape))
        targets[0] = -100 if ignored else targets[0]
        batches.append((torch.rand(n, *shape, 5), targets))
    model = nn.Linear(5, 3)
    if shape:
        model = nn.Sequential(model, Swap())
    return Learner(model, Data(batches, batches), loss, defaults=())


class Swap(nn.Module):
    """A model that moves the classes of a sequence to the second dimension."""

    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize(
    "loss",
    [
        F.mse_loss,
        nn.MSELoss(),
        partial(F.smooth_l1_loss, beta=0.5),
        lambda preds, targets: F.mse_loss(preds, targets),
        nn.MSELoss().forward,
    ],
    ids=["function", "module", "partial", "lambda", "method"],
)
def test_the_loss_of_an_item_is_that_of_a_batch_of_it_alone(loss):
    learn = make(loss)
    preds, targets, losses = learn.get_preds(with_loss=True)
    alone = [loss(preds[n : n + 1], targets[n : n + 1]) for n in range(len(preds))]
    assert torch.allclose(losses, torch.stack(alone))


def test_a_loss_that_sums_gives_the_sums_of_the_items():
    batches = [(torch.rand(n, 3), torch.rand(n, 2)) for n in (4, 2)]
    learn = make(nn.MSELoss(reduction="sum"), nn.Linear(3, 2), batches)
    preds, targets, losses = learn.get_preds(with_loss=True)
    assert torch.allclose(losses, ((preds - targets) ** 2).sum(1))


def test_class_weights_and_ignored_targets_are_those_of_torch():
    weight = torch.tensor([1.0, 2.0, 3.0])
    learn = classes(nn.CrossEntropyLoss(weight, label_smoothing=0.1), ignored=1)
    preds, targets, losses = learn.get_preds(with_loss=True)
    assert torch.equal(losses, F.cross_entropy(preds, targets, weight, label_smoothing=0.1, reduction="none"))
    assert losses[0] == 0


def test_an_item_of_several_targets_has_the_mean_over_those_that_are_not_ignored():
    learn = classes(F.cross_entropy, shape=(6,))
    for _, targets in learn.data.valid:
        targets[:, 4:] = -100
    preds, targets, losses = learn.get_preds(with_loss=True)
    assert torch.allclose(losses, F.cross_entropy(preds[:, :, :4], targets[:, :4], reduction="none").mean(1))


def test_the_loss_of_the_models_own_output_is_computed_for_each_item():
    class Output(dict):
        loss = property(lambda self: self["loss"])

    class Own(nn.Linear):
        def forward(self, x, labels):
            logits = super().forward(x)
            return Output(logits=logits, loss=F.mse_loss(logits, labels))

    batches = [{"x": torch.rand(n, 3), "labels": torch.rand(n, 1)} for n in (4, 2)]
    learn = make(None, Own(3, 1), batches)
    logits, labels, losses = learn.get_preds(keep="logits", with_loss=True)
    assert torch.allclose(losses, ((logits - labels) ** 2)[:, 0])


def test_a_loss_of_the_items_together_is_refused_for_single_items():
    def contrastive(preds, targets):
        return F.cross_entropy(preds @ preds.T, torch.arange(len(preds)))

    with pytest.raises(ValueError, match="It depends on the items together"):
        make(contrastive).get_preds(with_loss=True)
    with pytest.raises(ValueError, match="the loss is None in evaluation mode"):
        make(lambda preds, targets: None).get_preds(with_loss=True)
