"""How large gradients are, from the first layer to the last."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from callbacks.core.contract import LearnerProtocol
from callbacks.history.drawing import BLUE, MARKERS, add_legend, draw_lines, new_axes
from callbacks.inspect.recording import ParameterRecorder, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class GradientFlow(ParameterRecorder):
    """Record each parameter's gradient at each step: norm, mean and largest absolute value.

    The gradients are those that the optimizer uses, so after clipping. They stay on the device and are read
    once per pass. If those of the first layers are much smaller than those of the last layers, gradients
    vanish on their way back; if they grow from step to step, they explode.

    Args:
        parameters: names as in `model.named_parameters()`, with `*` for any characters; by default all.
        every: which steps are recorded, as in `"10 steps"`.

    Attributes:
        parameter_names: what was recorded, in the order in which the model has them.
        steps: the recorded steps of this fit, or of the last one.
        norms: root of the sum of squares, shape (steps, parameters), float32. NaN without a gradient.
        means, maxima: mean and largest absolute value, of the same shape.

    Raises:
        TypeError, ValueError: a setting is invalid; or, before the first batch, the model has no such
            parameter.
    """

    only_observes = True
    _row: Tensor | None = None

    @property
    def norms(self) -> Tensor:
        """Norm of each gradient at each step."""
        return self._table()[..., 0]

    @property
    def means(self) -> Tensor:
        """Mean absolute value of each gradient at each step."""
        return self._table()[..., 1]

    @property
    def maxima(self) -> Tensor:
        """Largest absolute value of each gradient at each step."""
        return self._table()[..., 2]

    def _table(self) -> Tensor:
        return self._recording.table(3)

    def before_step(self, learn: LearnerProtocol) -> None:
        is_coming = self._recording.is_coming(learn)
        self._row = stacked(sizes_of(each, learn) for each in self._recording.parts) if is_coming else None

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._row is not None:
            self._recording.add(learn, self._row)
            self._row = None

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw a bar for each parameter, from first to last, that shows how large its gradient was.

        The dark bar goes from the 10th to the 90th percentile, over the steps, of the mean absolute value.
        The dot is the median. The thin line goes up to the largest absolute value. A parameter that never
        had a gradient is left out.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        shown = [n for n in range(len(self.parameter_names)) if not self.means[:, n].isnan().all()]
        ax = ax or new_axes(8, 0.26 * len(shown) + 1.6)
        shares = torch.tensor([0.1, 0.5, 0.9])
        low, middle, high = self.means[:, shown].nanquantile(shares, dim=0).numpy()
        top = self.maxima[:, shown].nan_to_num(0).amax(0).numpy()
        y = range(len(shown))
        ax.barh(y, high - low, 0.55, left=low, color=BLUE, label="mean value, 80 % of the steps")
        ax.plot(middle, y, MARKERS[0], color="white", markeredgecolor=BLUE, label="mean value, median")
        ax.hlines(y, high, top, color=BLUE, linewidth=1.2, label="up to the largest value")
        ax.set_xscale("log")
        if (low > 0).any():
            ax.set_xlim(left=low[low > 0].min() / 2)
        ax.set_yticks(y, [self._recording.labels[n] for n in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)  # the first layer is at the top
        ax.set(title="Size of the gradients, first layer to last", xlabel="absolute value of the gradient")
        add_legend(ax, loc="upper right", bbox_to_anchor=(1, -0.45 / (0.26 * len(shown) + 0.6)), ncols=3)
        return ax

    def plot_steps(self, *, ax: Axes | None = None) -> Axes:
        """Draw the norms over steps, a line for each parameter.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        ax = ax or new_axes(8, 4)
        draw_lines(ax, self.steps, self.norms, self._recording.labels)
        ax.set_yscale("log")
        ax.set(title="Gradient norm per parameter", ylabel="norm of the gradient")
        return ax


def sizes_of(parameter: nn.Parameter | None, learn: LearnerProtocol) -> Tensor:
    """Norm, mean and largest absolute value of a parameter's gradient, shape (3,), float32."""
    if parameter is None or parameter.grad is None or not parameter.numel():
        return torch.full((3,), math.nan, device=learn.device)
    gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
    sizes = gradient.detach().abs().float()
    largest = sizes.amax() if sizes.numel() else sizes.sum()
    return torch.stack([torch.linalg.vector_norm(sizes), sizes.sum() / parameter.numel(), largest])
