"""Go through points in the space of a model's parameters, and take the loss at each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.results.loss_weight import LossWeight


class Walk(Callback):
    """Put the next point into the model at the first batch of each pass, and add up its losses."""

    order = Order.PREPARE

    def __init__(self, parameters: list[nn.Parameter], points: Iterator[Tensor]):
        super().__init__(name="loss_surface_walk")
        self._parameters, self._points = parameters, points
        self._found: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._weights: list[float | Tensor] = []
        self._weight = LossWeight()

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.batch_idx:
            return
        self._losses, self._weights = [], []
        sizes = [each.numel() for each in self._parameters]
        parts = next(self._points).split(sizes)
        with torch.no_grad():
            for parameter, part in zip(self._parameters, parts, strict=True):
                parameter.copy_(part.reshape(parameter.shape))

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._losses.append(learn.loss.double())
        self._weights.append(self._weight.of(learn))

    def after_validate(self, learn: LearnerProtocol) -> None:
        losses = torch.stack(self._losses)
        if self._weight.adds_up(learn):
            self._found.append(losses.sum())
            return
        weights = torch.stack([torch.as_tensor(each, device=losses.device) for each in self._weights])
        counted = torch.where(weights == 0, 0, losses * weights)  # the mean of no target is NaN
        self._found.append(counted.sum() / weights.sum())

    def losses(self) -> Tensor:
        """The mean loss of each point, in main memory."""
        return torch.stack(self._found).cpu()


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All items of some parameters in a row: a copy."""
    device = parameters[0].device
    return torch.cat([each.detach().flatten().to(device, non_blocking=True) for each in parameters])


def offset(item: str, shape: torch.Size, index: tuple[int, ...]) -> int:
    """Where an index stands among the items in a row.

    Raises:
        ValueError: it is outside of the shape, or of another number of dimensions.
    """
    if shape.numel() == 1 and not index:
        return 0
    is_inside = len(index) == len(shape) and all(k < size for k, size in zip(index, shape, strict=True))
    if not is_inside:
        raise ValueError(
            f"LossSurface(along={item!r}): that parameter has the shape {tuple(shape)}: write an index for "
            "each dimension, from 0, as 'weight[2, 1]'."
        )
    place = 0
    for k, size in zip(index, shape, strict=True):
        place = place * size + k
    return place
