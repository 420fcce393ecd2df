# pyright: basic, reportMissingImports=false
"""Ignite: `create_supervised_trainer`, and an `Engine` over a hand-written step that reads nothing."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events, create_supervised_trainer
from torch import nn
from works import Work

PACKAGE = "pytorch-ignite"


def listen(engine: Engine) -> None:
    """Called after each batch."""


def run(work: Work, trainer: Engine) -> None:
    for _ in range(work.n_callbacks):
        trainer.add_event_handler(Events.ITERATION_COMPLETED, listen)
    trainer.run(work.data(), max_epochs=work.n_epochs)


def defaults(work: Work) -> nn.Module:
    model = work.make_model()
    run(work, create_supervised_trainer(model, work.optimizer(model.parameters()), work.loss_func))
    return model


def off(work: Work) -> nn.Module:
    model = work.make_model()
    optimizer = work.optimizer(model.parameters())

    def update(engine: Engine, batch: Any) -> None:
        inputs, targets = batch
        loss = work.loss_func(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    run(work, Engine(update))
    return model


VARIANTS = {"defaults": defaults, "off": off}
