"""The path of the parameters on the loss surface: what training has walked over, drawn from above."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.settings import is_number
from callbacks.inspect.planes import Plane, Surface, plane_of_items, principal_plane, random_plane
from callbacks.inspect.rows import Rows, put_recorded, recorded_of
from callbacks.inspect.walk import Walk, flat, offset
from callbacks.model.named import as_patterns, find_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Along = str | tuple[str, str]


class LossSurface(Callback):
    """Record where the parameters are, and draw their path over the loss around it.

    `plot(learn)` after the fit, or in it, draws the loss as a map and the path on it. A map has two
    directions: two parameters of your choice, the two principal directions of the path, or two random ones.
    The points are the one before the first step and each recorded step. They stay on the device and are
    read once a pass. Each is a copy of all parameters that are trained: of a large model record few points,
    by `every`, or only some parameters.

    Args:
        parameters: names as in `model.named_parameters()`, with `*` for any letters; by default all that
            require a gradient when the fit begins.
        every: which steps are recorded, as `"10 steps"`.

    Attributes:
        parameter_names: what was recorded, in the order in which the model has them.
        steps: the recorded steps, of this fit or the last; the first is the one before any step.
        path: shape (points, items of all these parameters).

    Raises:
        ValueError: a setting cannot be used; or, before the first batch, the model has no such parameter.

    Source: Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913: section 4 for
        random directions, section 7.2 for principal ones.
    """

    state = ("parameter_names", "recorded")
    recorded = property(recorded_of, put_recorded)

    def __init__(
        self, parameters: str | Sequence[str] | None = None, *, every: str = "1 step", name: str | None = None
    ):
        super().__init__(name=name)
        self._patterns = as_patterns("LossSurface", "parameters", parameters)
        self.parameters, self.every = parameters, every
        self.parameter_names: list[str] = []
        self._rows = Rows("LossSurface", every)
        self._found: list[nn.Parameter] = []

    @property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return self._rows.steps

    @property
    def path(self) -> Tensor:
        """The recorded points, shape (points, items)."""
        return self._rows.read()

    # Record

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._rows.clear()
        self.parameter_names = []

    def before_train(self, learn: LearnerProtocol) -> None:
        found = find_parameters(learn.model, self._patterns, "LossSurface")
        trained = [name for name, each in found.items() if each.requires_grad or self._patterns]
        self.parameter_names = self.parameter_names or trained
        self._found = [found[name] for name in self.parameter_names]

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and not self._rows.steps:
            self._rows.add(learn, flat(self._found))

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._rows.is_due(learn):
            self._rows.add(learn, flat(self._found))

    def after_train(self, learn: LearnerProtocol) -> None:
        self._rows.read()  # the pass's one wait

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._found = []

    # Look at it

    def plot(
        self,
        learn: LearnerProtocol,
        along: Along = "principal",
        *,
        n: int = 25,
        margin: float = 0.3,
        loader: Any = None,
        seed: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the loss around the path as a map, and the path on it, from the ring to the star.

        Arguments and errors are those of `evaluate`; `ax` is where to draw.
        """
        return self.evaluate(learn, along, n=n, margin=margin, loader=loader, seed=seed).plot(ax=ax)

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
        """Compute the loss on a grid around the path, in evaluation mode, without a trace on the learner.

        The plane goes through the last point of the path, from which all other parameters keep their
        values. The path is seen as it falls onto this plane, so but for the last point the loss of the map is
        not the one that training had there, unless the model has two parameters only.

        Args:
            learn: the learner that was fitted.
            along: `"principal"`: the two directions in which the path's points vary most, by principal
                component analysis. `"random"`: two random directions with filter-wise normalisation: each
                filter's part is as long as the filter, and that of biases and norms is 0. Or two parameters,
                as `("0.weight[2, 1]", "0.bias[0]")`.
            n: points of the grid in each direction, so n * n passes over the loader.
            margin: how much wider the map is than the path, at each side, as a share of its width.
            loader: what the loss is computed on, a few batches best; by default the training data.
            seed: of the random directions.

        Returns:
            The grid, its losses, and the path on it.

        Raises:
            ValueError: nothing was recorded, a setting cannot be used, the model has no such parameter, or
                the path does not leave a line.
        """
        self._check(n, margin)
        plane = self._plane(learn, along, seed).around(n, margin)
        parameters = self._parameters(learn)
        walk = Walk(parameters, plane.points(parameters[0].device))
        with learn.sandbox():
            learn.add_callbacks(walk)
            for _ in range(n * n):
                learn.validate(learn.data.train if loader is None else loader)
        return plane.surface(walk.losses().reshape(n, n), self.steps)

    def _plane(self, learn: LearnerProtocol, along: Any, seed: int) -> Plane:
        path = self.path.double()
        if not path.isfinite().all():
            step = self.steps[int((~path.isfinite().all(1)).nonzero()[0])]
            raise ValueError(
                f"LossSurface: at step {step} parameters are NaN or infinite, so there is no map."
            )
        if along == "principal":
            return principal_plane(path)
        if along == "random":
            return random_plane(path, [each.shape for each in self._parameters(learn)], seed)
        if not isinstance(along, (tuple, list)) or len(along) != 2:
            raise ValueError(
                f"LossSurface(along={along!r}): there are 'principal', 'random', and two parameters, as "
                f"('{self.parameter_names[0]}[0]', '{self.parameter_names[-1]}[0]')."
            )
        return plane_of_items(path, [self._place(learn, item) for item in along], list(along))

    def _place(self, learn: LearnerProtocol, item: str) -> int:
        """Where an item as `weight[2, 1]` stands in a point.

        Raises:
            ValueError: there is none.
        """
        match = re.fullmatch(r"([^\[\]]+?)\s*(?:\[([\d\s,]+)\])?", str(item))
        name, numbers = (match[1], match[2] or "") if match else (str(item), "")
        index = tuple(int(number) for number in re.findall(r"\d+", numbers))
        begin = 0
        for each, parameter in zip(self.parameter_names, self._parameters(learn), strict=True):
            if each == name:
                return begin + offset(item, parameter.shape, index)
            begin += parameter.numel()
        names = ", ".join(self.parameter_names)
        raise ValueError(f"LossSurface(along={item!r}): no such parameter was recorded. There are: {names}.")

    def _parameters(self, learn: LearnerProtocol) -> list[nn.Parameter]:
        found = find_parameters(learn.model, None, "LossSurface")
        parameters = [found[name] for name in self.parameter_names if name in found]
        if sum(each.numel() for each in parameters) != self.path.shape[1]:
            raise ValueError("LossSurface: the model has other parameters than those that were recorded.")
        return parameters

    def _check(self, n: Any, margin: Any) -> None:
        self._rows.check("LossSurface")
        if type(n) is not int or n < 2:
            raise ValueError(f"LossSurface(n={n!r}): write a whole number of points, 2 or more.")
        if not is_number(margin) or margin < 0:
            raise ValueError(f"LossSurface(margin={margin!r}): write a share, 0 or more.")
