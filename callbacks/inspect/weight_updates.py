"""How far updates move the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.drawing import draw_lines, new_axes
from callbacks.inspect.rows import Rows, put_recorded, recorded_of, stacked
from callbacks.model.named import as_patterns, find_parameters
from callbacks.model.places import Places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD_RATIO = -3  # Karpathy: updates of about a thousandth of the weights


class WeightUpdates(Callback):
    """Record by how much of itself each weight moves: log10 of the update's deviation over the weight's.

    About -3 is healthy: an update of a thousandth of the weights. Much less, and the rate may be too low;
    much more, and it may be too high. The update is all that the step does, decay and momentum too. Of the
    weights there is a copy from before to after each recorded step. Nothing is read before the pass ends.

    Args:
        parameters: names as in `model.named_parameters()`, with `*` for any letters; by default all of two or
            more dimensions (no biases and norms), or all, where there is none.
        every: which steps are recorded, as `"10 steps"`.

    Attributes:
        parameter_names: what was recorded, in the order in which the model has them.
        steps: the recorded steps, of this fit or the last.
        ratios: log10 of std(update) over std(weight before it), shape (steps, parameters), float32.
            -inf where a weight did not move, inf where all its items were the same, NaN where it has but one
            item.

    Raises:
        ValueError: a setting cannot be used; or, before the first batch, the model has no such parameter.

    Source: Karpathy, "Neural Networks: Zero to Hero", makemore part 3, 2022.
    """

    state = ("parameter_names", "recorded")
    recorded = property(recorded_of, put_recorded)

    def __init__(
        self, parameters: str | Sequence[str] | None = None, *, every: str = "1 step", name: str | None = None
    ):
        super().__init__(name=name)
        as_patterns("WeightUpdates", "parameters", parameters)  # refuses what is none
        self.parameters, self.every = parameters, every
        self.parameter_names: list[str] = []
        self._rows = Rows("WeightUpdates", every)
        self._found: list[nn.Parameter] = []
        self._places: Places | None = None
        self._before: list[Tensor] = []

    @property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return self._rows.steps

    @property
    def ratios(self) -> Tensor:
        """log10 of the update's deviation over the weight's, of each parameter at each step."""
        return self._rows.read().reshape(len(self.steps), len(self.parameter_names))

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._rows = Rows("WeightUpdates", self.every)
        self.parameter_names = []

    def before_train(self, learn: LearnerProtocol) -> None:
        self._find(learn.model)

    def _find(self, model: nn.Module) -> None:
        """Look up the parameters; those that a pass began with may be replaced in it."""
        patterns = as_patterns("WeightUpdates", "parameters", self.parameters)
        found = find_parameters(model, patterns, "WeightUpdates")
        if not self.parameter_names:
            large = [name for name, each in found.items() if each.ndim > 1]
            self.parameter_names = large if large and patterns is None else list(found)
        missing = nn.Parameter(torch.empty(0))  # of a model that has changed: NaN from here on
        self._found = [found.get(name, missing) for name in self.parameter_names]
        self._places = Places(model)

    def before_step(self, learn: LearnerProtocol) -> None:
        self._before = []
        if self._rows.is_coming(learn):
            if self._places is None or not self._places.are_of(learn.model):
                self._find(learn.model)
            self._before = [each.detach().clone() for each in self._found]

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._before:
            pairs = zip(self._before, self._found, strict=True)
            self._rows.add(learn, stacked(log_ratio(before, after.detach()) for before, after in pairs))
            self._before = []

    def after_train(self, learn: LearnerProtocol) -> None:
        self._rows.read()  # the pass's one wait

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._found, self._before, self._places = [], [], None

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the ratios over steps, a line for each parameter, and a dashed one at -3.

        Raises:
            ValueError: nothing was recorded.
        """
        self._rows.check("WeightUpdates")
        ax = ax or new_axes(7, 4)
        finite = self.ratios.masked_fill(self.ratios.isinf(), math.nan)
        draw_lines(ax, self.steps, finite, self.parameter_names)
        ax.axhline(GOOD_RATIO, color="black", linestyle="--", linewidth=1)
        ax.set_ylabel("log10 of update over weight")
        return ax


def log_ratio(before: Tensor, after: Tensor) -> Tensor:
    """log10 of the deviation of `after - before` over that of `before`, a scalar, float32."""
    if not before.numel():
        return torch.tensor(math.nan, device=before.device)
    before, after = (torch.view_as_real(each) if each.is_complex() else each for each in (before, after))
    update = after.float() - before.float()
    return torch.log10(update.std(correction=0) / before.float().std(correction=0))
