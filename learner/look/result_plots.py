"""Plots of predictions and targets: confusion matrices, residuals, and predictions over targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callbacks.history.drawing import BLUE, COLOURS, MARKERS, VERMILLION, add_legend, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 5000  # of an output: more cannot be distinguished
MAX_OUTPUTS = 6


def plot_predictions(predicted: Tensor, targets: Tensor, names: Sequence[Any], ax: Axes | None) -> Axes:
    """Predictions over targets, and the diagonal on which they should be."""
    ax = ax or new_axes(5, 4.6)
    low = targets.min().item()
    ax.axline((low, low), slope=1, color=ax.xaxis.label.get_color(), linewidth=3, alpha=0.4, label="exact")
    draw_points(ax, targets, predicted, names)
    spread = (targets - targets.mean(0)).square().sum()
    r2 = 1 - ((predicted - targets).square().sum() / spread).item() if spread else math.nan
    ax.set(xlabel="target", ylabel="prediction", title=f"R2 {r2:.3f}" if math.isfinite(r2) else "")
    add_legend(ax)
    return ax


def plot_residuals(predicted: Tensor, targets: Tensor, names: Sequence[Any], ax: Axes | None) -> Axes:
    """Prediction minus target over the prediction, and the line at 0."""
    ax = ax or new_axes(6, 4)
    residuals = predicted - targets
    ax.axhline(0, color=ax.xaxis.label.get_color(), linewidth=3, alpha=0.4, label="exact")
    draw_points(ax, predicted, residuals, names)
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


CHARACTER = 0.08  # inches of width
MAX_NUMBERED = 25  # classes up to which each cell shows its count
COLUMNS = ("true positive", "false positive", "false negative", "true negative")


def plot_classes(counts: Tensor, classes: Sequence[Any], ax: Axes | None) -> Axes:
    """Rows are targets, columns predictions; correct ones in blue, errors in red, as shares of the row."""
    n_classes = len(classes)
    side = min(max(3.2, 0.42 * n_classes + 1.6), 10)
    title = headline(counts, classes)
    characters = max(map(len, title.split("\n"))) + max(len(str(each)) for each in classes)
    ax = ax or new_axes(max(side + 0.6, CHARACTER * characters + 0.6), side)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    is_correct = torch.eye(n_classes, dtype=torch.bool)
    errors = shares.masked_fill(is_correct, 0)
    relative = errors / errors.max().clamp_min(1e-12)  # the largest error has the full colour
    strength = torch.where(is_correct, 0.6 + 0.4 * shares, 0.1 + 0.9 * relative.square())
    strength = strength.masked_fill(counts == 0, 0)
    colours = torch.where(is_correct[..., None], rgb(BLUE), rgb(VERMILLION))
    draw_cells(ax, counts, torch.cat([colours, strength[..., None]], 2), n_classes <= MAX_NUMBERED)
    step = max(1, n_classes // MAX_NUMBERED)
    places = range(0, n_classes, step)
    names = [str(classes[n]) for n in places]
    ax.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0)
    ax.set_yticks(places, names)
    ax.set(xlabel="prediction", ylabel="target", title=title)
    ax.title.set_fontsize("medium")
    return ax


def headline(counts: Tensor, classes: Sequence[Any]) -> str:
    """The share of correct predictions, and the most common error."""
    correct = counts.diagonal().sum().item() / max(counts.sum().item(), 1)
    errors = counts - counts.diagonal().diag()
    row, column = divmod(int(errors.argmax()), len(classes))
    worst = f"\nmost common error: {classes[row]} predicted as {classes[column]}" if errors.any() else ""
    return f"{100 * correct:.1f} % correct{worst}"


def plot_labels(counts: Tensor, names: Sequence[Any], ax: Axes | None) -> Axes:
    """A row per label, with its numbers of true and false positives and negatives."""
    ax = ax or new_axes(5.5, max(2.5, 0.4 * len(names) + 1.2))
    shares = (counts / counts.sum(2, keepdim=True).clamp_min(1)).flatten(1)[:, [3, 1, 2, 0]]
    table = counts.flatten(1)[:, [3, 1, 2, 0]]
    colours = torch.stack([rgb(BLUE), rgb(VERMILLION), rgb(VERMILLION), rgb(BLUE)]).expand(len(names), 4, 3)
    draw_cells(ax, table, torch.cat([colours, shares[..., None]], 2), True)
    ax.set_xticks(range(4), COLUMNS)
    ax.set_yticks(range(len(names)), [str(name) for name in names])
    ax.set(xlabel="prediction", ylabel="label", title="Predictions per label")
    return ax


def draw_cells(ax: Axes, counts: Tensor, colours: Tensor, has_numbers: bool) -> None:
    """Cells in these colours, shape (rows, columns, 4), with their counts."""
    ax.imshow(colours.clamp(0, 1).numpy(), aspect="auto", interpolation="nearest")
    ax.grid(visible=False)
    ink = ax.xaxis.label.get_color()
    for row, column in counts.nonzero().tolist() if has_numbers else ():
        colour = "white" if colours[row, column, 3] > 0.5 else ink
        words = str(int(counts[row, column]))
        ax.text(column, row, words, ha="center", va="center", color=colour, size="small")


def rgb(colour: str) -> Tensor:
    """Red, green and blue of a colour such as `#0072B2`, from 0 to 1."""
    return torch.tensor([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
