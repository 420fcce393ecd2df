# pyright: basic, reportMissingImports=false
"""Accelerate: the plain loop with everything prepared, and with only the model prepared.

It has no callbacks.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import nn
from works import Work

PACKAGE = "accelerate"


def loop(work: Work, accelerator: Accelerator, model: nn.Module, optimizer: Any, data: Any) -> nn.Module:
    if work.n_callbacks:
        raise NotImplementedError("Accelerate has no callbacks")
    for _ in range(work.n_epochs):
        for inputs, targets in data:
            loss = work.loss_func(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    return accelerator.unwrap_model(model)


def defaults(work: Work) -> nn.Module:
    accelerator, model = Accelerator(cpu=True), work.make_model()
    prepared = accelerator.prepare(model, work.optimizer(model.parameters()), work.data())
    return loop(work, accelerator, *prepared)


def off(work: Work) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(work.make_model())
    return loop(work, accelerator, model, work.optimizer(model.parameters()), work.data())


VARIANTS = {"defaults": defaults, "off": off}
