"""The loss at given points in the space of a model's parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.results.loss_weight import LossWeight
from callbacks.results.means import Mean


class Walk(Callback):
    """Set the parameters to the next of `points` at each validation's start, and keep the mean losses."""

    order = Order.PREPARE

    def __init__(self, parameters: list[nn.Parameter], points: Iterator[Tensor]):
        super().__init__(name="loss_surface_walk")
        self._parameters, self._points = parameters, points
        self._mean, self._weight = Mean(), LossWeight()
        self.losses: list[float] = []

    @torch.no_grad()
    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.batch_idx:
            return
        self._mean.clear()
        parts = next(self._points).split([each.numel() for each in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.copy_(part.reshape(parameter.shape))

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._mean.add(learn.loss, self._weight.of(learn))

    def after_validate(self, learn: LearnerProtocol) -> None:
        self.losses.append(self._mean.compute(adds_up=self._weight.adds_up(learn)))
