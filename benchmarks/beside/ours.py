"""Ours, with the defaults, with `ZeroGrad` only, and with `LeanStep`; and a plain loop that records."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from works import Work

from callbacks import Callback, LeanStep, ZeroGrad
from learner import Data, Learner

PACKAGE = ""


class EmptyCallback(Callback):
    """Called after each batch."""

    def after_batch(self, learn: Any) -> None:
        pass


def mean_error(preds: Tensor, targets: Tensor) -> Tensor:
    """The recorded metric: the mean error, or the share of wrong classes."""
    wrong = preds - targets if preds.ndim == 1 else preds.argmax(1) != targets
    return wrong.abs().mean() if preds.ndim == 1 else wrong.float().mean()


def fit(work: Work, callbacks: list[Any], **options: Any) -> nn.Module:
    callbacks = [*callbacks, *(EmptyCallback(name=f"empty_{number}") for number in range(work.n_callbacks))]
    learn = Learner(
        work.make_model(), Data(work.data()), work.loss_func, work.optimizer, callbacks, **options
    )
    learn.fit(work.n_epochs)
    return learn.model


def bare(work: Work) -> nn.Module:
    return fit(work, [ZeroGrad()], defaults=())


def defaults(work: Work) -> nn.Module:
    return fit(work, [])


def measuring(work: Work) -> nn.Module:
    from callbacks import Metrics

    return fit(work, [Metrics(mean_error, on="both")])


def lean(work: Work) -> nn.Module:
    return fit(work, [LeanStep()], defaults=())


def recording(work: Work) -> nn.Module:
    """The plain loop that records the loss of each step, and loss and metric of each epoch."""
    model = work.make_model()
    optimizer, data, loss_func = work.optimizer(model.parameters()), work.data(), work.loss_func
    steps, rows = [], []
    for _ in range(work.n_epochs):
        total, error, count = torch.zeros(()), torch.zeros(()), 0
        for inputs, targets in data:
            preds = model(inputs)
            loss = loss_func(preds, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            detached = loss.detach()
            steps.append(detached)
            total += detached * len(inputs)
            error += mean_error(preds.detach(), targets) * len(inputs)
            count += len(inputs)
        rows.append({"train_loss": (total / count).item(), "train_error": (error / count).item()})
    return model


VARIANTS = {
    "defaults": defaults,
    "off": bare,
    "LeanStep": lean,
    "loss and metric": measuring,
    "plain loop that records": recording,
}
