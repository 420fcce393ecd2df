"""Figures without a display: matplotlib's own `Figure`, imported only when something is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_NAMED = 12  # lines of a plot that get a name each: more do not fit beside it
PANEL = (3.2, 2.2)  # inches of one layer's picture
N_COLUMNS = 4
FAINTEST = 1e-4  # share that can just be seen in a picture of histograms


def new_axes(width: float, height: float) -> Axes:
    """The axes of a new figure of so many inches; without a window, and shown in a notebook."""
    from matplotlib.axes import Axes

    class ShownAxes(Axes):
        def _repr_png_(self) -> bytes:
            return png_of(figure)

    figure = new_figure(width, height)
    return figure.add_subplot(axes_class=ShownAxes)


def new_figure(width: float, height: float) -> Figure:
    """A new figure of so many inches; without a window, and shown in a notebook."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            return png_of(self)

    return ShownFigure(figsize=(width, height), layout="constrained")


def draw_lines(ax: Axes, steps: Sequence[int], values: Tensor, names: Sequence[str]) -> None:
    """Draw a line over steps for each name, coloured from the first layer (dark) to the last (light).

    Args:
        ax: where to draw.
        steps: x.
        values: y, shape (steps, names); NaN is left out.
        names: for the legend; of many only some are named.
    """
    from matplotlib import colormaps

    n_lines = len(names)
    named = {round(k * (n_lines - 1) / max(N_NAMED - 1, 1)) for k in range(N_NAMED)}
    for n, name in enumerate(names):
        colour = colormaps["viridis"](0.9 * n / max(n_lines - 1, 1))
        label = name if n_lines <= N_NAMED or n in named else None
        marker = "." if len(steps) < 20 else ""
        ax.plot(steps, values[:, n].numpy(), color=colour, label=label, linewidth=1.2, marker=marker)
    ax.set_xlabel("step")
    ax.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def draw_histograms(steps: Sequence[int], shares: Tensor, names: Sequence[str], highest: float) -> Figure:
    """Draw a picture for each layer: steps to the right, values upwards, brightness as the share, in powers.

    Args:
        steps: the recorded steps.
        shares: shape (steps, layers, bins), in [0, 1].
        names: the layers.
        highest: the upper edge of the last bin; the first begins at 0.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.image import AxesImage

    n_columns = min(len(names), N_COLUMNS)
    n_rows = math.ceil(len(names) / N_COLUMNS)
    figure = new_figure(PANEL[0] * n_columns + 0.8, PANEL[1] * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True).flatten()
    image = AxesImage(axes[0])
    for n, ax in enumerate(axes):
        ax.set_visible(n < len(names))
        if n < len(names):
            image = ax.imshow(
                shares[:, n].T.clamp(min=FAINTEST).numpy(),
                norm=LogNorm(FAINTEST, 1),
                extent=(0, len(steps), 0, highest),
                origin="lower",
                aspect="auto",
                cmap="magma",
                interpolation="nearest",
            )
            ax.set_title(names[n], fontsize="small")
            mark_steps(ax, steps)
    figure.supxlabel("step", fontsize="small")
    figure.supylabel("absolute value", fontsize="small")
    figure.colorbar(image, ax=axes.tolist(), label="share of the items")
    return figure


def mark_steps(ax: Axes, steps: Sequence[int]) -> None:
    """Name first, middle and last column of a picture by their steps."""
    places = sorted({0, len(steps) // 2, len(steps) - 1})
    ax.set_xticks([place + 0.5 for place in places], [str(steps[place]) for place in places])


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG, as notebooks ask for them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
