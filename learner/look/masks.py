"""The classes of pixels, drawn over their images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callbacks.history.drawing import INK, VERMILLION
from learner.look.decoding import Decoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 12  # classes: more do not fit below the panels


def draw_masks(figure: Figure, masks: Any, names: Sequence[Any] | None, wrong: Tensor | None = None) -> None:
    """Draw classes of pixels over the images of a figure, and below them what the colours mean.

    A class has one colour in all panels. Class 0 is not drawn. Panels without an image stay as they are.

    Args:
        figure: of `draw_items`.
        masks: class indices of the items, shape (items, height, width) or (items, 1, height, width).
        names: of the classes, or None.
        wrong: the pixels with a wrong prediction, of the same shape; they are drawn in red.
    """
    if not isinstance(masks, Tensor) or masks.ndim < 3 or not (masks == masks.round()).all():
        return
    highest = max(1, len(names or ()) - 1, int(masks.max()))
    drawn: set[int] = set()
    any_wrong = False
    for n, (ax, mask) in enumerate(zip(figure.axes, masks, strict=False)):
        if has_its_size(ax, mask):
            mask = mask.reshape(mask.shape[-2:])
            draw_pixels(ax, mask.float().masked_fill(mask <= 0, math.nan), "viridis", highest, 0.6)
            drawn |= {number for number in mask.unique().long().tolist() if number > 0}
            if wrong is not None and wrong[n].any():
                shown = wrong[n].reshape(mask.shape).float()
                draw_pixels(ax, shown.masked_fill(shown == 0, math.nan), VERMILLION, 1, 0.9)
                any_wrong = True
    if drawn or any_wrong:
        explain_colours(figure, sorted(drawn), names, highest, any_wrong)


def has_its_size(ax: Axes, mask: Tensor) -> bool:
    """Do the axes show an image with as many pixels as the mask?"""
    pixels = ax.images[0].get_array() if ax.images else None
    return pixels is not None and mask.numel() > 0 and tuple(mask.shape[-2:]) == pixels.shape[:2]


def draw_pixels(ax: Axes, values: Tensor, colours: str, highest: int, alpha: float) -> None:
    """Draw numbers over an image, in one colour or the colours of a map; NaN is transparent."""
    from matplotlib.colors import ListedColormap

    colour_map: Any = ListedColormap([colours]) if colours.startswith("#") else colours
    ax.imshow(values.numpy(), cmap=colour_map, alpha=alpha, interpolation="nearest", vmin=0, vmax=highest)


def explain_colours(
    figure: Figure, numbers: Sequence[int], names: Sequence[Any] | None, highest: int, any_wrong: bool
) -> None:
    """A legend below the panels, with a name for each colour."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    colours = colormaps["viridis"]
    patches = []
    for number in numbers[:MAX_NAMED]:
        name = names[number] if names and number < len(names) else number
        label = f"class {name}" if isinstance(name, int) else str(name)
        patches.append(Patch(color=colours(number / highest), alpha=0.6, label=label))
    if any_wrong:
        patches.append(Patch(color=VERMILLION, label="wrong"))
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(len(patches), 6),
        fontsize="small",
        labelcolor=INK,
        framealpha=0,
    )


def wrong_pixels(decoded: Decoded, chosen: Any) -> Tensor | None:
    """Where predictions differ from targets that count, shape (chosen, ...); None unless they are classes."""
    if decoded.kind != "classes" or decoded.predicted.ndim < 3:
        return None
    wrong = decoded.predicted != decoded.targets
    return (wrong if decoded.is_counted is None else wrong & decoded.is_counted)[chosen]
