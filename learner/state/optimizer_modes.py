"""Switch optimizers that have a training and an evaluation mode, like schedule-free ones.

In training mode the parameters are the weights for computing gradients, in evaluation mode the weights to use
(Defazio et al. 2024, arXiv:2405.15682). A training pass runs in training mode. Validation, predictions, saved
files, and the learner after a fit have the weights of the evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.optim.optimizers import has_modes, members_of, set_mode
from callbacks.optim.parameter_rules import parameters_of
from learner.state.protocol import FullLearner


class EvalMode(Callback):
    """Puts the optimizer into evaluation mode after a training pass, before others use the weights."""

    order = Order.PREPARE
    is_training = False  # is the optimizer in training mode?

    def after_train(self, learn: LearnerProtocol) -> None:
        set_mode(learn.optimizer, training=False)
        self.is_training = False

    after_epoch = after_fit = cleanup_fit = after_train  # after CancelEpoch there is no after_train


class TrainMode(Callback):
    """Puts the optimizer into training mode before a training pass, after others set the weights."""

    order = Order.SAVE
    needs = (EvalMode,)

    def before_train(self, learn: LearnerProtocol) -> None:
        set_mode(learn.optimizer, training=True)
        learn.callbacks[EvalMode].is_training = True


@contextmanager
def switching(learn: FullLearner) -> Iterator[None]:
    """Switch the modes of the optimizer in a fit, if it has modes."""
    if has_modes(learn.optimizer):
        add_modes(learn)
    try:
        yield
    finally:
        if EvalMode in learn.callbacks:
            learn.remove_callbacks(EvalMode, TrainMode)


def add_modes(learn: FullLearner) -> None:
    """Add both callbacks, as the last one and as the first one, but after the last accumulated update."""
    own = list(learn.callbacks)
    n_before = max((at for at, each in enumerate(own, start=1) if each.accumulates_gradients), default=0)
    learn.loop.connect(learn, (*own[:n_before], EvalMode(), *own[n_before:], TrainMode()))


def follow(learn: FullLearner) -> None:
    """Add the callbacks before a training pass, if the optimizer was replaced by one with modes."""
    if has_modes(learn.optimizer) and EvalMode not in learn.callbacks:
        add_modes(learn)
        learn.callbacks[TrainMode].before_train(learn)


def is_in_training_mode(learn: FullLearner) -> bool:
    """Is a training pass running whose optimizer has modes?"""
    return (
        has_modes(learn.optimizer) and EvalMode in learn.callbacks and learn.callbacks[EvalMode].is_training
    )


@contextmanager
def in_eval_mode(learn: FullLearner) -> Iterator[list[Tensor] | None]:
    """Use the evaluation weights within the block; afterwards training continues with the same bits.

    Yields:
        A copy of the weights of the training mode, in the optimizer's order; None outside of a training pass,
        where the optimizer is in evaluation mode already.
    """
    if not is_in_training_mode(learn):
        yield None
        return
    optimizer, mode = learn.optimizer, learn.callbacks[EvalMode]
    kept = [each.detach().clone() for each in weights_with_modes(optimizer)]
    set_mode(optimizer, training=False)
    mode.is_training = False
    try:
        yield kept
    finally:
        mode.is_training = True
        put_training_weights(learn, optimizer, kept)


def put_training_weights(learn: FullLearner, optimizer: Any, weights: list[Tensor] | None) -> None:
    """Enter training mode in a training pass, with exactly these weights: switching alone rounds them."""
    if not is_in_training_mode(learn):
        return
    set_mode(optimizer, training=True)
    with torch.no_grad():
        for parameter, weight in zip(weights_with_modes(optimizer), weights or (), strict=False):
            parameter.copy_(weight)


def weights_with_modes(optimizer: Any) -> list[Tensor]:
    """The parameters of the optimizers that have modes."""
    return [each for member in members_of(optimizer) if has_modes(member) for each in parameters_of(member)]
