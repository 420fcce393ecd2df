"""Pictures of numbers that a model predicts: residuals, and predictions over targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callbacks.history.drawing import COLOURS, MARKERS, add_legend, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 5000  # of an output: more cannot be distinguished
MAX_OUTPUTS = 6


def plot_predictions(answers: Tensor, targets: Tensor, names: Sequence[Any], ax: Axes | None) -> Axes:
    """Predictions over targets, and the diagonal on which they should be."""
    ax = ax or new_axes(5, 4.6)
    low = targets.min().item()
    ax.axline((low, low), slope=1, color=ax.xaxis.label.get_color(), linewidth=3, alpha=0.4, label="exact")
    draw_points(ax, targets, answers, names)
    spread = (targets - targets.mean(0)).square().sum()
    r2 = 1 - ((answers - targets).square().sum() / spread).item() if spread else math.nan
    ax.set(xlabel="target", ylabel="prediction", title=f"R2 {r2:.3f}" if math.isfinite(r2) else "")
    add_legend(ax)
    return ax


def plot_residuals(answers: Tensor, targets: Tensor, names: Sequence[Any], ax: Axes | None) -> Axes:
    """Prediction minus target over the prediction, and the line at 0."""
    ax = ax or new_axes(6, 4)
    residuals = answers - targets
    ax.axhline(0, color=ax.xaxis.label.get_color(), linewidth=3, alpha=0.4, label="exact")
    draw_points(ax, answers, residuals, names)
    mean, spread = residuals.mean().item(), residuals.std(correction=0).item()
    title = f"mean residual {mean:.3g}, standard deviation {spread:.3g}"
    ax.set(xlabel="prediction", ylabel="residual: prediction - target", title=title)
    add_legend(ax)
    return ax


def draw_points(ax: Axes, x: Tensor, y: Tensor, names: Sequence[Any]) -> None:
    """A marker and colour for each output."""
    stride = math.ceil(len(x) / MAX_POINTS)
    for n, name in enumerate(names[:MAX_OUTPUTS]):
        label = f"output {name}" if len(names) > 1 else "items"
        ax.scatter(
            x[::stride, n].numpy(),
            y[::stride, n].numpy(),
            s=16,
            alpha=0.9,
            label=label,
            marker=MARKERS[n],
            facecolors="none",
            edgecolors=COLOURS[n % len(COLOURS)],
        )
