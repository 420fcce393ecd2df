"""Curves as SVG inside a page: their colours follow the page, and their text is text."""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from callbacks.history.drawing import BLUE, VERMILLION, why_undrawn
from callbacks.history.drawing import INK as GREY
from learner.report.records import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.7, 2.7)  # inches: a panel is about 340 pixels wide on a phone, where its text has 9 pixels
INK, LINE = "#010101", "#020202"  # colours that no figure uses otherwise; the page replaces them
SERIES = tuple(f"#0{number}0a0a" for number in range(1, 7))
COLOURS = {INK: "--dim", LINE: "--line"} | {each: f"--series-{n}" for n, each in enumerate(SERIES, 1)}
COLOURS |= {BLUE.lower(): "--series-1", VERMILLION.lower(): "--series-2", GREY: "--dim"}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))  # so that lines differ on paper too
WIDE = 100  # ratio of the largest to the smallest value above which the axis is logarithmic
SETTINGS: Any = {"svg.fonttype": "none", "font.size": 10, "text.parse_math": False}
MAX_LABEL = 14  # characters of a choice below its axis
MAX_POINTS = 1000  # of a line: more cannot be seen


@dataclass
class Line:
    """A line of a panel."""

    label: str  #: its name in the legend
    #: x, y: the points; a `y` that is not finite leaves a gap
    x: Sequence[float]
    y: Sequence[float]
    mark: tuple[float, float] | None = None  #: `(x, y)` of a point to mark, such as the best one


def panel(
    title: str, caption: str, lines: Sequence[Line], *, unit: str = "epoch", has_legend: bool = True
) -> str:
    """A figure with its title and caption; empty if no line has a point."""
    if not any(math.isfinite(value) for line in lines for value in line.y):
        return ""
    about = f"{title} over {unit}s. {caption}"

    def drawn(ax: Axes) -> None:
        for number, line in enumerate(lines):
            draw(ax, line, number)
        finish(ax, [value for line in lines for value in line.y], unit)
        if has_legend and len(lines) > 1:
            ax.legend(frameon=False, labelcolor=INK, loc="best", handlelength=2.4)

    return as_figure(title, caption, svg(drawn, about))


@dataclass
class Axis:
    """What a setting's axis shows."""

    #: low, high: the ends of a range
    low: float | None = None
    high: float | None = None
    is_log: bool = False  #: is it logarithmic?
    choices: Sequence[Any] = ()  #: the values of a setting without a range, from left to right


def points(title: str, caption: str, axis: Axis, x: Sequence[Any], y: Sequence[float], marked: int) -> str:
    """A figure of a result against a setting. One point is marked."""

    def drawn(ax: Axes) -> None:
        places = [axis.choices.index(value) for value in x] if axis.choices else list(x)
        ax.plot(places, y, marker="o", markersize=5, linestyle="", color=SERIES[0], alpha=0.6)
        ax.plot([places[marked]], [y[marked]], marker="*", markersize=14, color=SERIES[1])
        finish(ax, y, title, is_whole=all(isinstance(value, int) for value in places))
        if axis.choices:
            ax.set_xticks(range(len(axis.choices)), [str(each)[:MAX_LABEL] for each in axis.choices])
            ax.set_xlim(-0.5, len(axis.choices) - 0.5)
        else:
            ax.set_xlim(axis.low, axis.high)
            if axis.is_log:
                ax.set_xscale("log")

    return as_figure(title, caption, svg(drawn, f"{caption} against {title}"))


def as_figure(title: str, caption: str, image: str) -> str:
    """An image with its title and caption; empty without an image."""
    if not image:
        return ""
    about = f"<span>{escape(caption)}</span>" if caption else ""
    return f"<figure><figcaption><b>{escape(title)}</b>{about}</figcaption>{image}</figure>"


def svg(drawn: Callable[[Axes], None], about: str) -> str:
    """What a function draws on the axes of a panel, as an `svg` element; empty without matplotlib."""
    if why_undrawn():
        return ""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=SIZE, layout="constrained")
    return svg_of(figure, about, lambda: drawn(figure.add_subplot()))


def svg_of(figure: Figure, about: str, drawn: Callable[[], None] = lambda: None) -> str:
    """A figure as an `svg` element with a description for screen readers; `drawn` draws it first."""
    from matplotlib import rc_context  # slow to import

    buffer = io.StringIO()
    with rc_context(SETTINGS | {"svg.hashsalt": about}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the characters
        drawn()
        write_numbers(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=150)
    return as_element(buffer.getvalue(), about)


def write_numbers(figure: Figure) -> None:
    """Label logarithmic axes with numbers: their default labels are formulas, which `SETTINGS` leaves raw."""
    from matplotlib.ticker import LogFormatter  # slow to import

    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.1, 0.4)))


def draw(ax: Axes, line: Line, number: int) -> None:
    """Draw one line and its mark."""
    stride = max(1, len(line.y) // MAX_POINTS)
    colour: Any = SERIES[number % len(SERIES)]
    dashes: Any = DASHES[(number + number // len(SERIES)) % len(DASHES)]
    x, y = line.x[::stride], line.y[::stride]
    marker = "o" if len(y) < 3 else ""
    ax.plot(
        x, y, label=line.label, color=colour, linestyle=dashes, linewidth=1.6, marker=marker, markersize=4
    )
    if line.mark is not None:
        ax.plot(*line.mark, marker="o", markersize=6.5, color=colour, linestyle="")


def finish(ax: Axes, y: Sequence[float], unit: str, *, is_whole: bool = True) -> None:
    """Axes and grid in the page's colours; a logarithmic axis for a wide range."""
    from matplotlib.ticker import MaxNLocator

    values = [value for value in y if math.isfinite(value)]
    if is_wide(values):
        ax.set_yscale("log")
    elif len(set(values)) == 1:  # the ticks around a constant would differ in the last digits only
        ax.set_ylim(*sorted((0, 2 * values[0] or 1)))
    ax.set_xlabel(unit, color=INK)
    if is_whole:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.grid(color=LINE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=INK, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)


def is_wide(values: Sequence[float]) -> bool:
    """Do positive values span so much that small ones would lie on the axis?"""
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def as_element(text: str, about: str) -> str:
    """Matplotlib's file as an element of a page: without metadata and references, with the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = f"f{zlib.crc32(about.encode()):08x}-"  # names in a page must differ between its figures
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var({name})")
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    head = f'<svg role="img" aria-label="{escape(about)}" {box[0]}>'
    return head + text[text.index(">") + 1 :].strip()


def values_of(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A column to draw; NaN where an epoch has no number."""
    return [float(row[name]) if is_number(row.get(name)) else math.nan for row in rows]
