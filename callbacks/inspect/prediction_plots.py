"""Plots of the predictions during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.every import Every
from callbacks.core.output import Output
from callbacks.core.settings import check_count
from callbacks.history.drawing import BLUE, add_legend, check_drawing, new_figure, png_of, style
from callbacks.history.paths import as_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes", LearnerProtocol], Any]

PANEL = (2.0, 3.0)  # inches: six panels side by side are the article's 12 x 3
N_COLUMNS = 6
MAX_POINTS = 2000  # per panel: more points cannot be distinguished on two inches, and make files large


class PlotSnapshots(Callback):
    """Draw the predictions over the data at the first steps of a fit: one figure, a panel for each.

    A panel shows the batch of its step as circles and, in red, the predictions before the update. Its title
    is the step and the RMSE of these predictions. The figure opens no window. It is complete when the fit
    ends; after an early stop or an error it has the panels drawn so far. Each fit draws a new figure. In a
    notebook, end a cell with `learn.callbacks.plot_snapshots` to see it; elsewhere pass `path`.

    Args:
        n: number of panels; six stand in a row.
        every: how often a panel is drawn, until there are `n`, as in `"1 step"` or `"50 steps"`; with epochs,
            the last training batch of each. Only these steps wait for the device.
        path: where the plot is written when the fit ends, such as `"snapshots.png"`; missing folders are
            created, and an older plot is overwritten.
        draw: `draw(ax, learn)` draws a panel from `learn.inputs`, `learn.targets` and `learn.preds`; needed
            unless inputs, targets and predictions are each one number per item. The title is set before.
        ylim: lowest and highest y of every panel; by default chosen to fit the data, and the same for all
            panels unless `draw` is passed.

    Attributes:
        figure: the plot of the last fit, a `matplotlib.figure.Figure`; None before the first panel.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: a setting is invalid; or, at the first training batch, before its update,
            `draw` is needed and missing.
    """

    only_observes = True
    order = Order.REPORT

    def __init__(
        self,
        n: int = 6,
        *,
        every: str | Every = "1 step",
        path: str | Path | None = None,
        draw: Draw | None = None,
        ylim: Sequence[float] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_drawing("the callback PlotSnapshots, which can be left out,")
        check_settings(n, draw, ylim)
        self.n, self.every, self.draw, self.ylim = n, Every(every), draw, ylim
        self.path = (
            None
            if path is None
            else as_path("PlotSnapshots", "path", path, "the name of a file, such as 'fit.png'")
        )
        self.figure: Figure | None = None
        self._axes: list[Axes] = []
        self._path: Path | None = None
        self._checked = False

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.every.start(learn)
        self.figure, self._axes, self._checked = None, [], self.draw is not None
        if self.path is not None:
            self._path = self.path.absolute()  # now, because the fit may change the working directory
            check_path(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def after_loss(self, learn: LearnerProtocol) -> None:
        if learn.training and not self._checked:
            points_of(learn)
            self._checked = True

    def after_batch(self, learn: LearnerProtocol) -> None:
        if len(self._axes) < self.n and self.every.after_batch(learn):
            self._add_panel(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        if len(self._axes) < self.n and self.every.after_epoch(learn) and learn.preds is not None:
            self._add_panel(learn)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._path is not None and self.figure is not None:
            with Output(f"PlotSnapshots(path={str(self._path)!r})"):
                self.figure.savefig(self._path, dpi=150)
        self._path = None

    def _add_panel(self, learn: LearnerProtocol) -> None:
        figure = self.figure = self.figure or new_figure(*PANEL)
        shared = self.draw is None or self.ylim is not None
        ax = figure.add_subplot(sharey=self._axes[0] if shared and self._axes else None)
        style(ax)
        self._axes.append(ax)
        arrange(figure, self._axes, shared)
        if self.draw is None:
            draw_points(ax, learn)
            if len(self._axes) == 1:
                add_legend(ax, handlelength=1, borderpad=0)
        else:
            ax.set_title(f"step {learn.global_step}, loss {float(learn.loss):.4g}", fontsize="medium")
            self.draw(ax, learn)
        if self.ylim is not None:
            ax.set_ylim(*self.ylim)

    def _repr_png_(self) -> bytes | None:
        return None if self.figure is None else png_of(self.figure)


def arrange(figure: Figure, axes: list[Axes], shared: bool) -> None:
    """Arrange panels in rows of at most six, resize the figure, and label a shared y once per row."""
    from matplotlib.gridspec import GridSpec

    n_columns = min(len(axes), N_COLUMNS)
    n_rows = math.ceil(len(axes) / N_COLUMNS)
    figure.set_size_inches(PANEL[0] * n_columns, PANEL[1] * n_rows)
    grid = GridSpec(n_rows, n_columns, figure=figure)
    for position, ax in enumerate(axes):
        ax.set_subplotspec(grid[divmod(position, n_columns)])
        ax.tick_params(labelleft=not shared or position % n_columns == 0)


def draw_points(ax: Axes, learn: LearnerProtocol) -> None:
    """Draw targets and, in red, predictions over inputs; the title is step and RMSE."""
    inputs, targets, preds = points_of(learn)
    rmse = (preds - targets).square().mean().sqrt().item()
    chosen = slice(None, None, math.ceil(len(inputs) / MAX_POINTS))
    x = inputs[chosen].numpy()
    ax.scatter(x, targets[chosen].numpy(), s=18, facecolors="none", edgecolors=BLUE, label="targets")
    ax.scatter(x, preds[chosen].numpy(), s=14, color="red", label="predictions")
    ax.set_title(f"step {learn.global_step}\nRMSE {rmse:.4g}", fontsize="medium")


def points_of(learn: LearnerProtocol) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and predictions, each of shape (items,), in float64 on the CPU."""
    inputs = learn.inputs if isinstance(learn.inputs, tuple) else tuple(learn.inputs.values())
    parts = (inputs[0] if len(inputs) == 1 else inputs, learn.targets, learn.preds)
    points = [
        part.detach().cpu().to(torch.float64).reshape(-1)  # an intended wait, at few steps
        for part in parts
        if isinstance(part, Tensor) and part.numel() == learn.n_items
    ]
    if len(points) < len(parts):
        names = ("inputs", "targets", "preds")
        found = ", ".join(f"{name} {shape_of(part)}" for name, part in zip(names, parts, strict=True))
        raise ValueError(
            f"PlotSnapshots draws inputs, targets and predictions of one number per item, shape (items,) or "
            f"(items, 1), but found {found}. Pass your own function that draws one panel: "
            "PlotSnapshots(draw=draw), with def draw(ax, learn), which uses learn.inputs, learn.targets "
            "and learn.preds."
        )
    return points[0], points[1], points[2]


def shape_of(part: Any) -> str:
    """The shape of a tensor, the type of anything else."""
    return f"of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"of type {type(part).__name__}"


def check_settings(n: int, draw: Any, ylim: Any) -> None:
    """Refuse invalid settings."""
    check_count("PlotSnapshots", "n", n, 1)
    if draw is not None and not callable(draw):
        raise TypeError(f"PlotSnapshots(draw={draw!r}): pass a function, def draw(ax, learn).")
    if ylim is not None and not is_range(ylim):
        raise ValueError(f"PlotSnapshots(ylim={ylim!r}): pass the lowest and highest y, such as (-100, 100).")


def check_path(path: Path) -> None:
    """Refuse, before training, a path that no plot can be written to."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.is_dir() or path.suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(
            f"PlotSnapshots(path={str(path)!r}): the file name must end in one of: "
            f"{', '.join(sorted(kinds))}."
        )


def is_range(pair: Any) -> bool:
    """Are these two numbers, the lower one first?"""
    are_two = isinstance(pair, (tuple, list)) and len(pair) == 2
    return are_two and all(isinstance(each, (int, float)) for each in pair) and pair[0] < pair[1]
