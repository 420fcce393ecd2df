"""How far updates move the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from callbacks.core.contract import LearnerProtocol
from callbacks.history.drawing import add_legend_beside, draw_lines, new_axes
from callbacks.inspect.recording import ParameterRecorder, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD_RATIO = -3  # Karpathy: updates of about a thousandth of the weights


class WeightUpdates(ParameterRecorder):
    """Record how far each update moves each weight: log10 of std(update) over std(weight).

    About -3 is healthy: an update of a thousandth of the weights. If it is much lower, the rate may be too
    low; if it is much higher, the rate may be too high. The update includes weight decay and momentum. During
    a recorded step, a copy of the weights is kept. Nothing is read from the device before the pass ends.

    Args:
        parameters: names as in `model.named_parameters()`, with `*` for any characters; by default all of two
            or more dimensions (no biases and norms), or all if there is no such parameter.
        every: which steps are recorded, as in `"10 steps"`.

    Attributes:
        parameter_names: what was recorded, in the order in which the model has them.
        steps: the recorded steps of this fit, or of the last one.
        ratios: log10 of std(update) over std(weight before it), shape (steps, parameters), float32. -inf if a
            weight did not move, inf if all its items were equal, NaN if it has a single item.

    Raises:
        TypeError, ValueError: a setting is invalid; or, before the first batch, the model has no such
            parameter.

    Source: Karpathy, "Neural Networks: Zero to Hero", makemore part 3, 2022.
    """

    only_observes = True
    _before: Sequence[Tensor] = ()

    def _choose(self, found: dict[str, nn.Parameter]) -> list[str]:
        """Parameters of two or more dimensions; all if there is no such parameter."""
        return [name for name, each in found.items() if each.ndim > 1] or list(found)

    @property
    def ratios(self) -> Tensor:
        """log10 of std(update) over std(weight), of each parameter at each step."""
        return self._recording.table()

    def before_step(self, learn: LearnerProtocol) -> None:
        is_coming = self._recording.is_coming(learn)
        self._before = [copy_of(each) for each in self._recording.parts] if is_coming else ()

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._before:
            pairs = zip(self._before, self._recording.parts, strict=True)
            self._recording.add(learn, stacked(log_ratio(before, after) for before, after in pairs))
            self._before = ()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        super().cleanup_fit(learn)
        self._before = ()

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the ratios over steps, a line for each parameter, and a thick one at -3, which is healthy.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        ax = ax or new_axes(8, 4)
        finite = self.ratios.masked_fill(self.ratios.isinf(), math.nan)
        draw_lines(ax, self.steps, finite, self._recording.labels)
        colour, label = ax.xaxis.label.get_color(), f"healthy: about {GOOD_RATIO}"
        ax.axhline(GOOD_RATIO, color=colour, linewidth=4, alpha=0.4, label=label)
        add_legend_beside(ax)
        ax.set(title="Size of the updates per parameter", ylabel="log10 of std(update) / std(weight)")
        return ax


def copy_of(parameter: nn.Parameter | None) -> Tensor:
    """A copy of a parameter; an empty tensor where the model no longer has it."""
    return torch.empty(0) if parameter is None else parameter.detach().clone()


def log_ratio(before: Tensor, after: Tensor) -> Tensor:
    """log10 of std(after - before) over std(before), a scalar, float32; NaN if `before` is empty."""
    if not before.numel():
        return torch.tensor(math.nan, device=before.device)
    before, after = (torch.view_as_real(each) if each.is_complex() else each for each in (before, after))
    update = after.detach().float() - before.float()
    return torch.log10(update.std(correction=0) / before.float().std(correction=0))
