"""The weights with which a result was measured, for callbacks that keep those of the best epoch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import loss_tensors
from callbacks.model.named import named_tensors
from callbacks.model.plain_attributes import is_storable, plain_state, put_plain
from callbacks.model.shards import like

Tensors = dict[str, Tensor]  # by name
Weights = tuple[Tensors, dict[str, Any]]  # of the model; of the loss, and tensors in plain attributes


class MeasuredWeights:
    """Finds the weights with which a result of this epoch was measured; each callback holds its own.

    A result that is there when the training pass ends was measured in that pass. Where the pass made one
    update, after its last batch, every batch was measured with the weights before that update: a copy of them
    is made when the pass begins. Where it made several, or batches followed the update, the result is a mean
    over the weights on the way, and those at the epoch's end are taken: those at its beginning have seen
    nothing of the epoch.

    Args:
        monitor: the result's name.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.begin_fit()

    def begin_fit(self) -> None:
        """Forget everything; call it in `before_fit`, and in `cleanup_fit`."""
        self.start: dict[str, Any] | None = None  # of the pass: step and weights; state to be kept
        self.moment = ""  # of the epoch, when its weights were measured, in words
        self._has_many_updates = False  # has the last pass?

    def before_train(self, learn: LearnerProtocol) -> None:
        """Copy the weights, if they may be needed."""
        is_needed = not (self._has_many_updates or self.monitor.startswith("valid_"))
        is_possible = is_needed and not any(map(is_lazy, learn.model.parameters()))
        self.start = {"step": learn.global_step, "weights": copy_weights(learn) if is_possible else None}

    def after_train(self, learn: LearnerProtocol) -> None:
        """Find out whether the copy has the measured weights; otherwise it is dropped."""
        if self.start is None:
            return
        n_updates, is_of_pass = learn.global_step - self.start["step"], self.monitor in learn.results
        self._has_many_updates = n_updates > 1
        if n_updates != 1 or learn.n_waiting or not is_of_pass:
            self.start = None
        is_before = self.start is not None and self.start["weights"] is not None
        self.moment = " before its update" if is_before else " at its end" if is_of_pass else ""

    def release(self) -> dict[str, Any] | None:
        """The step and the weights before this epoch's update, if the result was measured with them.

        They are not kept after this; call it in `after_epoch`.
        """
        start, self.start = self.start, None
        return start if start and start["weights"] is not None else None


@contextmanager
def in_place(learn: LearnerProtocol, weights: Weights) -> Iterator[None]:
    """Put these weights into the model within the block."""
    now = copy_weights(learn)
    put_weights(learn, weights)
    try:
        yield
    finally:
        put_weights(learn, now)


def copy_weights(learn: LearnerProtocol) -> Weights:
    """A copy of weights and buffers in main memory, so no memory of the device is used."""
    plain = {key: value for key, value in plain_state(learn.model).items() if is_storable(value)}
    beside = {"loss": copy_tensors(loss_tensors(learn)), "plain": copy.deepcopy(plain)}
    return copy_tensors(named_tensors(learn.model)), beside


def put_weights(learn: LearnerProtocol, copies: Weights) -> None:
    """Restore what `copy_weights` returned."""
    weights, beside = copies
    put_tensors(named_tensors(learn.model), weights)
    if beside:
        put_tensors(loss_tensors(learn), beside["loss"])
        put_plain(learn.model, {**plain_state(learn.model), **beside["plain"]})


def copy_tensors(tensors: Tensors) -> Tensors:
    """A copy in main memory."""
    return {name: each.detach().to("cpu", copy=True) for name, each in tensors.items()}


@torch.no_grad()
def put_tensors(tensors: Tensors, copies: Tensors) -> None:
    """Copy back into the tensors what `copy_tensors` returned."""
    for name, copied in copies.items():
        tensors[name].copy_(like(copied, tensors[name]))
