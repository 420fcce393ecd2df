"""Planes through a point in the space of all parameters, and the loss on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from callbacks.history.drawing import VERMILLION, add_colour_bar, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_LEVELS = 20
WIDE = 20  # above this ratio of the highest loss to the lowest, the scale is logarithmic


@dataclass(frozen=True)
class Surface:
    """The loss on a grid, and the path on it.

    Attributes:
        x, y: the grid, shape (n,) each, along the first and the second direction.
        loss: shape (n, n), float64; `loss[k, j]` is at `y[k]` and `x[j]`.
        path: shape (points, 2).
        steps: the steps of these points.
        labels: the directions' names.
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    path: Tensor
    steps: list[int]
    labels: tuple[str, str]

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the loss as a map, and the path on it, from the ring to the star."""
        from matplotlib.colors import LogNorm

        ax = ax or new_axes(6.5, 4.8)
        finite = self.loss[self.loss.isfinite()]
        if not finite.numel():
            raise ValueError("the loss is not finite anywhere on this grid: choose a smaller margin.")
        low, high = finite.min().item(), finite.max().item()
        is_wide = 0 < WIDE * low < high
        ends = math.log10(low) if is_wide else low, math.log10(high) if is_wide else high
        places = torch.linspace(*ends, N_LEVELS, dtype=torch.float64)
        levels = (10**places if is_wide else places).tolist()
        loss = self.loss.masked_fill(~self.loss.isfinite(), float("nan")).numpy()
        filled = ax.contourf(
            self.x, self.y, loss, levels, norm=LogNorm() if is_wide else None, cmap="viridis"
        )
        ax.contour(self.x, self.y, loss, filled.levels, colors="black", linewidths=0.3, alpha=0.5)
        self._draw_path(ax)
        ax.grid(visible=False)
        ax.set(xlabel=self.labels[0], ylabel=self.labels[1])
        ax.set_title(f"Loss around the path of steps {self.steps[0]} to {self.steps[-1]}")
        add_colour_bar(filled, ax, "loss", format="%.3g")
        return ax

    def _draw_path(self, ax: Axes) -> None:
        from matplotlib.patheffects import Normal, Stroke

        x, y = self.path.T.tolist()
        edge = [Stroke(linewidth=3.5, foreground="black"), Normal()]  # readable on dark and light parts
        dot = "." if len(x) <= 100 else ""
        ax.plot(x, y, color="white", linewidth=1.5, marker=dot, markersize=4, path_effects=edge)
        for word, place, marker, size in (("start", 0, "o", 9), ("end", -1, "*", 15)):
            ax.plot(x[place], y[place], marker, markersize=size, color=VERMILLION, markeredgecolor="white")
            ax.annotate(
                word,
                (x[place], y[place]),
                (8, 6),
                textcoords="offset points",
                color="white",
                weight="bold",
                path_effects=edge,
            )


@dataclass(frozen=True)
class Plane:
    """Two directions at a point, and the path projected onto their plane.

    Attributes:
        origin: shape (items,).
        directions: shape (2, items).
        path: shape (points, 2): coordinates along the directions, counted from `zero`.
        zero: the origin's coordinates.
        labels: the directions' names.
        least: the map extends at least so far from the origin.
    """

    origin: Tensor
    directions: Tensor
    path: Tensor
    zero: Tensor
    labels: tuple[str, str]
    least: float = 0.0

    def grid(self, n: int, margin: float) -> list[Tensor]:
        """The coordinates x and y of a grid of n by n points around the path, shape (n,) each."""
        grids = []
        for zero, places in zip(self.zero.tolist(), self.path.T, strict=True):
            low = min(places.min().item(), zero - self.least)
            high = max(places.max().item(), zero + self.least)
            width = (high - low) or 1.0
            grids.append(torch.linspace(low - margin * width, high + margin * width, n, dtype=torch.float64))
        return grids

    def points(self, x: Tensor, y: Tensor, device: torch.device) -> Iterator[Tensor]:
        """The points of the grid, row by row, shape (items,) each."""
        origin, (first, second) = self.origin.to(device), self.directions.to(device)
        for up in (y - self.zero[1]).tolist():
            for right in (x - self.zero[0]).tolist():
                yield origin + right * first + up * second


def plane_of_items(path: Tensor, places: Sequence[int], labels: Sequence[str]) -> Plane:
    """The plane of two items; the coordinates are the items' own values."""
    if places[0] == places[1]:
        raise ValueError(
            f"LossSurface(along={tuple(labels)!r}): these are the same. Pass two different parameters."
        )
    directions = torch.zeros(2, path.shape[1], dtype=path.dtype)
    directions[0, places[0]] = directions[1, places[1]] = 1
    seen = path[:, list(places)]
    return Plane(path[-1], directions, seen, seen[-1], (labels[0], labels[1]))


def principal_plane(path: Tensor) -> Plane:
    """The plane through the last point along the two directions in which the path's points vary most."""
    centred = path - path.mean(0)
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    n_directions = int((sizes > 1e-7 * sizes.max()).sum()) if len(sizes) else 0
    if n_directions < 2:
        raise ValueError(
            "LossSurface(along='principal'): all points of the path are on one line, so there is no plane. "
            "Record more steps, or choose two parameters, as in along=('weight[0]', 'bias[0]')."
        )
    directions = rows[:2]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()  # the same sign on all machines
    shares = (sizes.square() / sizes.square().sum()).tolist()
    labels = [f"principal direction {k + 1} ({100 * shares[k]:.3g} % of the variance)" for k in range(2)]
    seen = (path - path[-1]) @ directions.T
    return Plane(path[-1], directions, seen, torch.zeros(2, dtype=path.dtype), (labels[0], labels[1]))


def random_plane(path: Tensor, shapes: Sequence[torch.Size], seed: int) -> Plane:
    """The plane through the last point along two random directions, normalised filter by filter.

    Source: Li et al. 2018, arXiv:1712.09913, section 4. Biases and norms keep their values, as in the
        authors' code.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = path[-1].split([shape.numel() for shape in shapes])
    parts = [
        normalised(torch.randn(2, *shape, generator=generator, dtype=path.dtype), weight.reshape(shape))
        for weight, shape in zip(weights, shapes, strict=True)
    ]
    directions = torch.cat(parts, 1)
    if not directions.any():
        raise ValueError("LossSurface(along='random'): no parameter has filters (two dimensions or more).")
    seen = torch.linalg.lstsq(directions.T, (path - path[-1]).T).solution.T
    labels = ("random direction 1, filter-wise normalised", "random direction 2, filter-wise normalised")
    return Plane(path[-1], directions, seen, torch.zeros(2, dtype=path.dtype), labels, least=1.0)


def normalised(drawn: Tensor, weight: Tensor) -> Tensor:
    """Random directions, shape (2, items), each filter as long as the weight's."""
    if weight.ndim < 2:
        return torch.zeros(2, weight.numel(), dtype=drawn.dtype)
    drawn, filters = drawn.flatten(2), weight.flatten(1)
    return (drawn / drawn.norm(dim=2, keepdim=True) * filters.norm(dim=1, keepdim=True)).flatten(1)
