"""The plot of a history: a panel for the losses and one for each metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from callbacks.history.direction import Direction
from callbacks.history.drawing import INK, add_legend, add_legend_beside, line_style, new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.6, 3.4)  # inches of one of several panels
ALONE = (6.0, 4.0)
N_COLUMNS = 3
SPLITS = ("train_", "valid_")
NO_RESULTS = ("epoch", "seconds", "lr")  # columns that are drawn only on request
N_INSIDE = 6  # labels up to which the legend is within the panel
FEW = 50  # epochs up to which each has a marker
YScale = Literal["linear", "log"]


class Columns(Protocol):
    """A `History`, which imports this file."""

    names: Any
    stops: list[tuple[int, str]]
    steps: Any

    def __getitem__(self, key: str, /) -> Any:
        """A column."""
        ...

    def direction_of(self, name: str) -> Direction | None:
        """The direction in which a column is better."""
        ...


@dataclass
class Panel:
    """What one panel shows: its y label, the unit of x, and values by label."""

    label: str
    unit: str
    series: dict[str, list[float]]


def plot(history: Columns, names: str | Iterable[str] | None, ax: Axes | None, yscale: YScale) -> Axes:
    """Draw the panels; `History.plot` documents the arguments."""
    if yscale not in ("linear", "log"):
        raise ValueError(f"plot(yscale={yscale!r}): choose 'linear' or 'log'.")
    panels = [each for each in panels_of(history, names, ax) if any(each.series.values())]
    if not panels:
        raise ValueError("the history has nothing to draw yet: fit first.")
    n_columns = min(len(panels), N_COLUMNS)
    size = SIZE[0] * n_columns, SIZE[1] * math.ceil(len(panels) / n_columns)
    axes = new_panels(len(panels), *(size if len(panels) > 1 else ALONE), n_columns) if ax is None else [ax]
    for each, panel in zip(axes, panels, strict=True):
        draw(each, panel, history)
        each.set_yscale(yscale)
    return axes[0]


def panels_of(history: Columns, names: str | Iterable[str] | None, ax: Axes | None) -> list[Panel]:
    """The panels: one for names that were asked for or axes that were passed, otherwise one per result."""
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        return [panel_of(history, shared_ending(names), names)]
    numbers = [name for name in history.names if name not in NO_RESULTS and is_numeric(history[name])]
    groups = grouped(numbers)
    losses = groups.pop("loss", [])
    steps = Panel("loss", "step", {"train_loss of each step": list(history.steps["train_loss"])})
    first = panel_of(history, "loss", losses) if losses else steps
    ordered = sorted(groups.items(), key=lambda each: importance(history, each[1]))
    others = [panel_of(history, label, group) for label, group in ordered] if ax is None else []
    return [first, *others] if any(first.series.values()) else others


def panel_of(history: Columns, label: str, names: Sequence[str]) -> Panel:
    """The columns with these names over epochs."""
    series = {name: [as_point(name, value) for value in history[name]] for name in names}
    return Panel(label, "epoch", series)


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Results by what they measure: `train_loss`, `valid_loss` and `other_loss` are losses."""
    bases = {base_of(name) for name in names} | {"loss"}
    groups: dict[str, list[str]] = {}
    for name in names:
        base = base_of(name)
        within = [each for each in bases if base.endswith(f"_{each}")]
        groups.setdefault(min(within, key=len, default=base), []).append(name)
    return groups


def importance(history: Columns, names: Sequence[str]) -> int:
    """The place of a panel: metrics with a known direction, other metrics, then other numbers."""
    if any(history.direction_of(name) for name in names):
        return 0
    return 1 if any(name.startswith(SPLITS) for name in names) else 2


def base_of(name: str) -> str:
    """The name without the pass in which it was measured."""
    return next((name.removeprefix(split) for split in SPLITS if name.startswith(split)), name)


def shared_ending(names: Sequence[str]) -> str:
    """The y label for some columns: what all of them measure, or nothing."""
    bases = {base_of(name) for name in names}
    return names[0] if len(names) == 1 else bases.pop() if len(bases) == 1 else ""


def draw(ax: Axes, panel: Panel, history: Columns) -> None:
    """Draw lines, the best epoch, and where a fit was stopped."""
    from matplotlib.ticker import MaxNLocator

    n_before = len(ax.lines)
    for number, (name, values) in enumerate(panel.series.items(), n_before):
        marker = "o" if len(values) < FEW else ""
        ax.plot(range(len(values)), values, label=name, marker=marker, markersize=3, **line_style(number))
    if panel.unit == "epoch":
        mark_best(ax, panel, history)
        for number, (epoch, _) in enumerate(history.stops):
            label = "_stopped" if number else "stopped"  # one entry in the legend is enough
            ax.axvline(epoch, color="grey", linestyle=(0, (1, 3)), linewidth=1.5, label=label)
    ax.set(xlabel=panel.unit, ylabel=panel.label)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    n_labels = len(ax.get_legend_handles_labels()[1])
    if n_labels > 1:
        (add_legend if n_labels <= N_INSIDE else add_legend_beside)(ax)


def mark_best(ax: Axes, panel: Panel, history: Columns) -> None:
    """Mark the best epoch of the last result whose better direction is known, and name it in the title."""
    names = [name for name in panel.series if history.direction_of(name)]
    name = next((each for each in reversed(names) if each.startswith("valid_")), names[-1] if names else "")
    found = {epoch: value for epoch, value in enumerate(panel.series.get(name, ())) if math.isfinite(value)}
    if len(found) < 2:
        return
    best = (min if history.direction_of(name) == "min" else max)(found, key=lambda epoch: found[epoch])
    colour = line_style(list(panel.series).index(name))["color"]
    ax.scatter([best], [found[best]], s=190, marker="*", color=colour, edgecolors=INK, zorder=5)
    ax.set_title(f"best {name}: {found[best]:.4g} in epoch {best}")


def is_numeric(column: Iterable[Any]) -> bool:
    """Does a column have a number, and nothing else but gaps?"""
    values = [value for value in column if value is not None]
    return bool(values) and all(isinstance(value, (int, float)) for value in values)


def as_point(name: str, value: Any) -> float:
    """A number to draw; NaN, which leaves a gap, where an epoch has none."""
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)):
        raise TypeError(f"plot({name!r}): it contains {value!r}, but only numbers can be drawn.")
    return value
