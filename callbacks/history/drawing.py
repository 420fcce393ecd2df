"""Figures without a display, in one style: matplotlib's own `Figure`, imported only when something is drawn.

The background is transparent and the text grey, so that one plot serves light and dark pages. Colours are
those of Okabe and Ito, which colour-blind people can distinguish; lines also differ in their dashes, and
points in their markers, so that a plot can be printed in grey.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

INK = "#767676"  # contrast 4.5 to 1 on white and on black
BLUE, VERMILLION, GREEN, PURPLE = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
N_NAMED = 12  # lines of a plot that have a name each: more names do not fit next to the plot
PANEL = (3.2, 2.2)  # inches of one layer's plot
N_COLUMNS = 4
FAINTEST = 1e-4  # share that can just be seen in a plot of histograms


def why_undrawn() -> str:
    """Why nothing can be drawn, and how to fix that; empty if matplotlib is installed."""
    with suppress(ImportError):
        if find_spec("matplotlib") is not None:
            return ""
    return "matplotlib is missing: pip install matplotlib"


def check_drawing(owner: str) -> None:
    """Raise an error with the owner's name if nothing can be drawn."""
    if reason := why_undrawn():
        raise ImportError(f"{owner} draws a plot, but {reason}.", name="matplotlib")


def new_axes(width: float, height: float) -> Axes:
    """The axes of a new figure of this size in inches, in our style; shown in a notebook."""
    return new_panels(1, width, height, 1)[0]


def new_panels(n: int, width: float, height: float, n_columns: int, **options: Any) -> list[Axes]:
    """The axes of a new figure with `n` panels in rows, in our style; any of them is shown in a notebook.

    `width` and `height` are inches of the whole figure; `options` are `sharex` and `sharey` of matplotlib.
    """
    check_drawing("plot")
    from matplotlib.axes import Axes

    class ShownAxes(Axes):
        def _repr_png_(self) -> bytes:
            return png_of(figure)

    figure = new_figure(width, height)
    shape, keywords = (math.ceil(n / n_columns), n_columns), {"axes_class": ShownAxes}
    found = figure.subplots(*shape, squeeze=False, subplot_kw=keywords, **options).flatten().tolist()
    for ax in found[n:]:
        ax.remove()
    for ax in found[:n]:
        style(ax)
    for ax in found[max(n - n_columns, 0) : n]:  # no panel is below
        ax.tick_params(labelbottom=True)
    return found[:n]


def new_figure(width: float, height: float) -> Figure:
    """A new figure of this size in inches with a transparent background; shown in a notebook."""
    check_drawing("plot")
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            return png_of(self)

    return ShownFigure(figsize=(width, height), layout="constrained", facecolor="none")


def style(ax: Axes) -> None:
    """Apply our style to axes: grey text, a faint grid, a line on the left and at the bottom."""
    ax.set_facecolor("none")
    ax.set_axisbelow(True)
    ax.grid(color=INK, alpha=0.25, linewidth=0.6)
    ax.tick_params(which="both", colors=INK, labelsize="small")
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, ax.xaxis.offsetText, ax.yaxis.offsetText):
        text.set_color(INK)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def line_style(n: int) -> dict[str, Any]:
    """Colour and dashes of the line with number `n`, different from those of its neighbours."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "linestyle": DASHES[(n + n // len(COLOURS)) % len(DASHES)],
        "linewidth": 1.6,
    }


def add_legend(ax: Axes, **options: Any) -> Legend:
    """A legend in the colour of the axes' labels."""
    colour = ax.xaxis.label.get_color()
    options = {"fontsize": "small", "framealpha": 0, "handlelength": 2.6} | options
    return ax.legend(labelcolor=colour, **options)


def add_legend_beside(ax: Axes, **options: Any) -> Legend:
    """A legend to the right of the axes."""
    return add_legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5), **options)


def add_colour_bar(image: Any, axes: Axes | Sequence[Axes], label: str, **options: Any) -> None:
    """A bar that shows what the colours mean; nothing if the axes are part of a subfigure."""
    from matplotlib.figure import Figure

    first = axes[0] if isinstance(axes, Sequence) else axes
    if isinstance(first.figure, Figure):
        colour = first.xaxis.label.get_color()
        bar = first.figure.colorbar(image, ax=axes, **options)
        bar.set_label(label, color=colour)
        bar.ax.tick_params(which="both", colors=colour, labelsize="small")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def draw_lines(ax: Axes, steps: Sequence[int], values: Tensor, names: Sequence[str]) -> None:
    """Draw a line over steps for each name, from the first layer (dark) to the last (light).

    `values` has the shape (steps, names); NaN is left out, and so is a line without a number.
    """
    from matplotlib import colormaps

    shown = [n for n in range(len(names)) if not values[:, n].isnan().all()]
    last = max(len(shown) - 1, 1)
    named = {round(k * last / (N_NAMED - 1)) for k in range(N_NAMED)}
    for place, n in enumerate(shown):
        label = names[n] if len(shown) <= N_NAMED or place in named else None
        ax.plot(
            steps,
            values[:, n].numpy(),
            color=colormaps["viridis"](0.3 + 0.5 * place / last),
            linestyle=DASHES[place % len(DASHES)] if len(shown) <= N_NAMED else "-",
            marker=MARKERS[place % len(MARKERS)] if len(steps) < 20 else "",
            markersize=4,
            linewidth=1.5 if len(shown) <= N_NAMED else 1.0,
            label=label,
        )
    ax.set_xlabel("step")
    if shown:
        add_legend_beside(ax)


def draw_histograms(steps: Sequence[int], shares: Tensor, names: Sequence[str], highest: float) -> Figure:
    """Draw a plot for each layer: steps on x, values on y, brightness for the share.

    `shares` has the shape (steps, layers, bins), in [0, 1], with bins from 0 to `highest`; a layer without a
    number is left out.
    """
    from matplotlib.colors import LogNorm

    shown = [n for n in range(len(names)) if not shares[:, n].isnan().all()]
    n_columns = min(max(len(shown), 1), N_COLUMNS)
    size = PANEL[0] * n_columns + 1.2, PANEL[1] * math.ceil(max(len(shown), 1) / N_COLUMNS) + 0.4
    axes = new_panels(max(len(shown), 1), *size, n_columns, sharex=True, sharey=True)
    for ax, n in zip(axes, shown, strict=False):
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
        ax.grid(visible=False)
        mark_steps(ax, steps)
        if n == shown[-1]:
            add_colour_bar(image, axes, "share of the outputs", pad=0.01)
    figure: Any = axes[0].figure
    figure.supxlabel("step", fontsize="small", color=INK)
    figure.supylabel("absolute value of the outputs", fontsize="small", color=INK)
    return figure


def mark_steps(ax: Axes, steps: Sequence[int]) -> None:
    """Label the first, middle and last column of a plot with their steps."""
    places = sorted({0, len(steps) // 2, len(steps) - 1})
    ax.set_xticks([place + 0.5 for place in places], [str(steps[place]) for place in places])


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG, as notebooks ask for them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
