"""Figures without a display: matplotlib's own `Figure`, imported only when something is drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_axes(width: float, height: float) -> Axes:
    """The axes of a new figure of so many inches; without a window, and shown in a notebook."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    class ShownAxes(Axes):
        def _repr_png_(self) -> bytes:
            return png_of(figure)

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot(axes_class=ShownAxes)


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG, as notebooks ask for them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
