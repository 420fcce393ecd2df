"""Turns what a program has computed into the loss and the gradients of the loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.program_choice import Pending, Programs
from callbacks.fast.refused_callbacks import AFTER_PRED, BEFORE_GRADIENTS, changed
from callbacks.fast.unguarded import are_same


def tensors_of(*nested: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    return [each for each in tree_leaves(nested) if isinstance(each, Tensor)]


def stamp_of(pending: Pending) -> list[int]:
    """How often each tensor that a loss reads has been written to."""
    found = tensors_of(pending.preds, pending.here["targets"], pending.program.read)
    return [each._version for each in found]


def check_read(learn: Any, pending: Pending, stamp: list[int]) -> None:
    """Refuse a change of what the loss reads, between the forward pass and the loss."""
    here, program = pending.here, pending.program
    # a callback may have copied the containers
    if learn.preds is not pending.preds and not are_same(*map(tree_leaves, (learn.preds, pending.preds))):
        raise changed(learn, "the predictions", AFTER_PRED)
    if learn.targets is not here["targets"] or learn.loss_func is not here["loss_func"]:
        raise changed(learn, "targets or loss function", AFTER_PRED)
    with torch.no_grad():
        is_same = not program.is_made or program.fits(here)
    if not is_same or stamp_of(pending) != stamp:
        raise changed(learn, "something that the loss reads", AFTER_PRED)


def check_gradients(learn: Any, pending: Pending, programs: Programs) -> None:
    """Refuse a change of what gradients depend on, before they are computed."""
    params = pending.here["params"]
    try:
        programs.unguarded.check_hooks(params, learn.model)
        is_same = sum(each.requires_grad for each in params) == len(pending.program.trained or ())
    except Unfit:
        is_same = False
    if not is_same:
        raise changed(learn, "which parameters are trained, or their hooks", BEFORE_GRADIENTS)
    for each in tensors_of(pending.loss, pending.preds):
        if each._backward_hooks or each.grad is not None or each.retains_grad:
            raise changed(learn, "the hooks or gradients of loss or predictions", BEFORE_GRADIENTS)


def add_gradients(learn: Any, pending: Pending) -> None:
    """Add gradients to the present ones, as `backward` does.

    If callbacks have changed the loss, they are multiplied by the derivative of theirs, and those of terms
    that depend on weights alone are added.
    """
    slope = None
    if learn.loss_grad is not pending.loss:
        learn.loss_grad.backward()
        if any(each.grad is not None for each in tensors_of(pending.preds)):
            raise changed(learn, "the loss by more than a scale", BEFORE_GRADIENTS[1:])
        slope = pending.loss.grad
        if slope is None:  # the loss was replaced
            return
    for param, grad in zip(pending.program.trained or (), pending.grads, strict=True):
        if grad is None:
            continue
        if slope is not None:
            grad = grad * slope
        if param.grad is None:
            param.grad = grad
        else:
            with torch.no_grad():
                param.grad.add_(grad)
