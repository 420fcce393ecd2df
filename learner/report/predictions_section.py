"""The predictions of the model on the validation data, as a section of its report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from callbacks.history.drawing import style
from learner.look.interpretation import Interpretation
from learner.report.curves import as_figure, svg, svg_of
from learner.report.page import paragraph, section, table
from learner.report.records import first_line
from learner.state.protocol import FullLearner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BESIDE = 12  # up to this number of classes, matrix and scores are side by side
MAX_CLASSES = 20  # of a matrix with numbers; a larger one is drawn
MAX_ROWS = 60  # classes in the table of scores
MANY = 1000  # points above which a plot holds pixels instead
N_CONFUSED = 5


def predictions_section(learn: FullLearner, missing: list[str]) -> str:
    """Confusion matrix or residuals, and scores, for the validation data; empty if there are none.

    If the section is left out, the reason is added to `missing`.
    """
    if learn.data.valid is None:
        return ""
    try:
        found = Interpretation(learn, inputs=False, losses=False)
        figures = numbers(found) if found.kind == "numbers" else confusion(found)
        is_small = found.kind != "numbers" and len(found.classes) <= MAX_BESIDE
        kind = ' class="pair"' if is_small else ""
        body = f"<div{kind}><div>{figures}</div><div>{scores(found)}</div></div>"
        return section("Predictions on the validation data", body)
    except Exception as error:  # noqa: BLE001 - the model and the data are the user's; the rest is still a report
        missing.append(f"Predictions on the validation data: {type(error).__name__}: {first_line(error)}")
        return ""


def confusion(found: Interpretation) -> str:
    """The confusion matrix with its numbers, or as a plot of many classes or labels."""
    if found.kind == "classes" and len(found.classes) <= MAX_CLASSES:
        return matrix(found) + confused(found)
    figure: Any = found.plot_confusion_matrix().figure
    return as_figure("confusion matrix", "", svg_of(figure, "confusion matrix: targets and predictions"))


def matrix(found: Interpretation) -> str:
    """The confusion matrix as a table: the colour of a cell is its share of its row."""
    counts = found.confusion_matrix()
    names = [escape(str(name)) for name in found.classes]
    shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).tolist()
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for n, (name, row) in enumerate(zip(names, counts.tolist(), strict=True)):
        cells = (cell(count, shares[n][k], k == n) for k, count in enumerate(row))
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table class="matrix" aria-label="Confusion matrix"><thead><tr><th></th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        + paragraph("Rows are targets, columns are predictions.", "dim")
    )


def cell(count: int, share: float, is_correct: bool) -> str:
    """A cell: correct predictions in one colour, errors in another."""
    if not count:
        return '<td class="dim">0</td>'
    colour = (
        f"color-mix(in srgb, var(--{'good' if is_correct else 'bad'}) {15 + 45 * share:.0f}%, transparent)"
    )
    return f'<td style="background: {colour}">{count:,}</td>'


def confused(found: Interpretation) -> str:
    """The commonest errors in words."""
    worst = [f"{target} as {predicted} ({n})" for target, predicted, n in found.most_confused()[:N_CONFUSED]]
    return paragraph(f"Most often confused: {', '.join(worst)}.") if worst else ""


def numbers(found: Interpretation) -> str:
    """Predictions over targets, and residuals over predictions."""
    plots = {"predictions": found.plot_predictions, "residuals": found.plot_residuals}
    figures = [as_figure(name, "", svg(partial(draw, plot), name)) for name, plot in plots.items()]
    return f'<div class="panels">{"".join(figures)}</div>'


def draw(plot: Callable[..., Axes], ax: Axes) -> None:
    """Draw a plot in the style of our plots; many points as pixels."""
    style(ax)
    plot(ax=ax)
    ax.set_title(ax.get_title(), fontsize="small")
    for points in ax.collections:
        points.set_rasterized(len(np.atleast_1d(points.get_offsets())) > MANY)


def scores(found: Interpretation) -> str:
    """Precision, recall and more of each class, or the errors of each number."""
    report = found.report()
    rows = {**dict(list(report.rows.items())[:MAX_ROWS]), **report.totals}
    head = list(next(iter(rows.values()), {}))
    body = [[str(name), *(row.get(key) for key in head)] for name, row in rows.items()]
    notes = list(report.notes)
    if len(report.rows) > MAX_ROWS:
        notes.append(f"The first {MAX_ROWS} of {len(report.rows)}.")
    return table(["", *head], body, caption="Scores") + "".join(map(paragraph, notes))
