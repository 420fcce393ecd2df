"""The path of the parameters over the loss surface, drawn as a map."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastcore.meta import delegates
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.settings import check_count, check_number
from callbacks.inspect.planes import Plane, Surface, plane_of_items, principal_plane, random_plane
from callbacks.inspect.recording import ParameterRecorder
from callbacks.model.named import find_parameters
from callbacks.results.loss_weight import LossWeight
from callbacks.results.means import Mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Along = str | tuple[str, str]


class LossSurface(ParameterRecorder):
    """Record where the parameters are, and draw their path over the loss around it.

    `plot(learn)`, during the fit or after it, draws the loss as a map with the path on it. A map has two
    directions: two parameters of your choice, the two principal directions of the path, or two random ones.
    One point is recorded before the first step, and one after each recorded step. The points stay on the
    device and are read once per pass. Each point is a copy of all trained parameters: for a large model,
    record few points, with `every`, or only some parameters.

    Args:
        parameters: names as in `model.named_parameters()`, with `*` for any characters; by default all that
            require a gradient when the fit starts.
        every: which steps are recorded, as in `"10 steps"`.

    Attributes:
        parameter_names: the recorded parameters, in the order in which the model has them.
        steps: the recorded steps of this fit, or of the last one; the first is the one before any step.
        path: shape (points, items of all these parameters).

    Raises:
        TypeError, ValueError: a setting is invalid; or, before the first batch, the model has no such
            parameter.

    Source: Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913: section 4 for
        random directions, section 7.2 for principal ones.
    """

    only_observes = True
    writes_to = ()  # its `path` is that of the weights

    @property
    def path(self) -> Tensor:
        """The recorded points, shape (points, items)."""
        return self._recording.read()

    # Record

    def _choose(self, found: dict[str, nn.Parameter]) -> list[str]:
        """The parameters that require a gradient."""
        return [name for name, each in found.items() if each.requires_grad]

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and not self.steps:
            self._recording.add(learn, flat(self._recording.parts))

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._recording.is_due(learn):
            self._recording.add(learn, flat(self._recording.parts))

    # Show

    def evaluate(
        self,
        learn: LearnerProtocol,
        along: Along = "principal",
        *,
        n: int = 25,
        margin: float = 0.3,
        loader: Any = None,
        seed: int = 0,
    ) -> Surface:
        """Compute the loss on a grid around the path, in evaluation mode; the learner stays as it is.

        The plane contains the last point of the path; all other parameters keep the values that they have
        there. The other points are projected onto the plane, so the map's loss at these points differs from
        the training loss, unless the model has only two parameters.

        Args:
            learn: the learner that was fitted.
            along: `"principal"`: the two directions in which the path's points vary most, by principal
                component analysis. `"random"`: two random directions with filter-wise normalisation: each
                filter's part is as long as the filter, and that of biases and norms is 0. Or two parameters,
                as `("0.weight[2, 1]", "0.bias[0]")`.
            n: points of the grid in each direction: the loss takes n * n passes over the loader.
            margin: how far the map extends beyond the path on each side, as a share of the path's width.
            loader: the data for the loss, ideally a few batches; by default the training data.
            seed: seed of the random directions.

        Returns:
            The grid, its losses, and the path on it.

        Raises:
            ValueError: nothing was recorded, a setting is invalid, the model has no such parameter, or all
                points of the path are on one line.
        """
        self._recording.check()
        check_count("LossSurface", "n", n, 2)
        check_number("LossSurface", "margin", margin, lambda x: x >= 0, "a share, 0 or more")
        plane, parameters = self._plane(learn, along, seed), self._parameters(learn)
        x, y = plane.grid(n, margin)
        walk = Walk(parameters, plane.points(x, y, parameters[0].device))
        with learn.sandbox():
            learn.add_callbacks(walk)
            for _ in range(n * n):
                learn.validate(learn.data.train if loader is None else loader)
        losses = torch.tensor(walk.losses, dtype=torch.float64).reshape(n, n)
        return Surface(x, y, losses, plane.path, list(self.steps), plane.labels)

    @delegates(evaluate)
    def plot(  # with the arguments of `evaluate`
        self, learn: LearnerProtocol, along: Along = "principal", *, ax: Axes | None = None, **kwargs: Any
    ) -> Axes:
        """Draw the loss around the path as a map, and the path on it, from the ring to the star.

        The other arguments and the errors are those of `evaluate`; `ax` is where to draw.
        """
        return self.evaluate(learn, along, **kwargs).plot(ax=ax)

    def _plane(self, learn: LearnerProtocol, along: Any, seed: int) -> Plane:
        path = self.path.double()
        if not path.isfinite().all():
            step = self.steps[int((~path.isfinite().all(1)).nonzero()[0])]
            raise ValueError(
                f"LossSurface: at step {step} parameters are NaN or infinite, so no map can be drawn."
            )
        if along == "principal":
            return principal_plane(path)
        if along == "random":
            return random_plane(path, [each.shape for each in self._parameters(learn)], seed)
        if not isinstance(along, (tuple, list)) or len(along) != 2:
            raise ValueError(
                f"LossSurface(along={along!r}): pass 'principal', 'random', or two parameters, such as "
                f"('{self.parameter_names[0]}[0]', '{self.parameter_names[-1]}[0]')."
            )
        return plane_of_items(path, [self._place(learn, item) for item in along], list(along))

    def _place(self, learn: LearnerProtocol, item: str) -> int:
        """The position in a point of an item, such as `weight[2, 1]`."""
        match = re.fullmatch(r"([^\[\]]+?)\s*(?:\[([\d\s,]+)\])?", str(item))
        name, numbers = (match[1], match[2] or "") if match else (str(item), "")
        index = tuple(int(number) for number in re.findall(r"\d+", numbers))
        start = 0
        for each, parameter in zip(self.parameter_names, self._parameters(learn), strict=True):
            if each == name:
                return start + offset(item, parameter.shape, index)
            start += parameter.numel()
        names = ", ".join(self.parameter_names)
        raise ValueError(f"LossSurface(along={item!r}): no such parameter was recorded. Available: {names}.")

    def _parameters(self, learn: LearnerProtocol) -> list[nn.Parameter]:
        found = find_parameters(learn.model, None, "LossSurface")
        parameters = [found[name] for name in self.parameter_names if name in found]
        if sum(each.numel() for each in parameters) != self.path.shape[1]:
            raise ValueError("LossSurface: the parameters of the model are not those that were recorded.")
        return parameters


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """A copy of all items of some parameters, shape (items,)."""
    device = parameters[0].device
    return torch.cat([each.detach().flatten().to(device, non_blocking=True) for each in parameters])


def offset(item: str, shape: torch.Size, index: tuple[int, ...]) -> int:
    """The position of an index among the flattened items."""
    if shape.numel() == 1 and not index:
        return 0
    try:
        return int(np.ravel_multi_index(index, tuple(shape)))
    except ValueError:
        raise ValueError(
            f"LossSurface(along={item!r}): that parameter has the shape {tuple(shape)}. Add an index for "
            "each dimension, from 0, such as 'weight[2, 1]'."
        ) from None


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
