"""Training and evaluation mode of the model and the loss in a pass, and each module's own mode around it."""

from __future__ import annotations

from typing import Any

from torch import nn

from callbacks.parts.modules import loss_module

Modes = list[tuple[nn.Module, bool]]


def modes_of(learn: Any) -> Modes:
    """Each module of the model and of the loss, and whether it is in training mode."""
    loss = loss_module(learn.loss_func)
    found = [(module, module.training) for module in learn.model.modules()]
    return found if loss is None else [*found, *((module, module.training) for module in loss.modules())]


def set_modes(modes: Modes) -> None:
    """Restore what `modes_of` returned."""
    for module, mode in modes:
        module.training = mode


def enter_mode(learn: Any, *, training: bool) -> None:
    """Put the model into the mode of a pass, and a loss that is a module into evaluation mode for validation.

    In training the parts of a loss have the modes that they were given: a network that compares features
    stays in evaluation mode.
    """
    if learn.model.training is not training:
        learn.model.train(training)
    loss = None if training else loss_module(learn.loss_func)
    if loss is not None:
        loss.eval()
