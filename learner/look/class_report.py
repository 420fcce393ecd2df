"""Tables of results per class, label or output."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from torch import Tensor

from callbacks.history.history import show
from callbacks.history.tables import html_table

WIDTH = 80
SCORES = ("precision", "recall", "f1")
LONGEST = 30  # characters of a name in the table


@dataclass(repr=False)
class ClassReport:
    """A table with a row for each class, label or output.

    `report["cat"]["recall"]` is a number.

    Attributes:
        rows: a dict of numbers by the name of the class.
        totals: the same over all classes, such as the mean.
        notes: explanations, one per line.
    """

    rows: dict[Any, dict[str, float]]
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: Any) -> dict[str, float]:
        """The row of a class, or of a total."""
        return self.totals[name] if name in self.totals else self.rows[name]

    def _cells(self) -> list[list[str]]:
        head = list(next(iter(self.rows.values()), {}))
        found = [["", *head]]
        for rows in (self.rows, self.totals):
            found += [[str(name), *(shown(row.get(key)) for key in head)] for name, row in rows.items()]
        return found

    def __repr__(self) -> str:
        head, *rows = self._cells()
        width = max(min(max(len(row[0]) for row in (head, *rows)), LONGEST), 8)
        lines = [
            f"{row[0]:{width}.{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in (head, *rows)
        ]
        if self.totals:
            lines.insert(1 + len(self.rows), "")
        return "\n".join([*lines, *(line for note in self.notes for line in textwrap.wrap(note, WIDTH - 1))])

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        return html_table(rows, head, n_text=1) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


def class_report(counts: Tensor, classes: Sequence[Any], *, is_multilabel: bool) -> ClassReport:
    """Precision, recall, F1 and support from a confusion matrix, or from one for each label."""
    if is_multilabel:
        true_positives, predicted, actual = counts[:, 1, 1], counts[:, :, 1].sum(1), counts[:, 1].sum(1)
    else:
        true_positives, predicted, actual = counts.diagonal(), counts.sum(0), counts.sum(1)
    columns = [each.tolist() for each in (true_positives, predicted, actual)]
    table = [scores(*numbers) for numbers in zip(*columns, strict=True)]
    report = ClassReport(dict(zip(classes, table, strict=True)))
    report.totals["mean"] = mean_of(table, [1] * len(table))
    report.totals["weighted mean"] = mean_of(table, columns[2])
    report.totals["all labels" if is_multilabel else "accuracy"] = scores(*map(sum, columns))
    noun = "Labels" if is_multilabel else "Classes"
    empty = (("never predicted, so their precision is 0", columns[1]), ("never a target", columns[2]))
    for words, numbers in empty:
        names = [str(name) for name, n in zip(classes, numbers, strict=True) if not n]
        if names:
            report.notes.append(f"{noun} {words}: {', '.join(names)}.")
    return report


def mean_of(table: Sequence[dict[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """The weighted mean of each score."""
    total = sum(weights) or 1
    pairs = list(zip(weights, table, strict=True))
    means = {name: sum(weight * row[name] for weight, row in pairs) / total for name in SCORES}
    return {**means, "support": sum(row["support"] for row in table)}


def scores(true_positives: int, predicted: int, actual: int) -> dict[str, float]:
    """The scores of one class, from its positives; 0 where a denominator is 0, as in scikit-learn."""
    return {
        "precision": true_positives / max(predicted, 1),
        "recall": true_positives / max(actual, 1),
        "f1": 2 * true_positives / max(predicted + actual, 1),
        "support": actual,
    }


def number_report(predicted: Tensor, targets: Tensor, names: Sequence[Any]) -> ClassReport:
    """Errors of numbers: mean absolute and root mean square error, R2, and bias."""
    rows: dict[Any, dict[str, float]] = {}
    report = ClassReport(rows)
    for n, name in enumerate(names):
        residuals, own = predicted[:, n] - targets[:, n], targets[:, n]
        spread = (own - own.mean()).square().mean().item()
        error = residuals.square().mean().item()
        rows[name] = {"mae": residuals.abs().mean().item(), "rmse": error**0.5}
        rows[name] |= {"r2": 1 - error / spread if spread else 0.0}
        rows[name] |= {"bias": residuals.mean().item(), "support": len(residuals)}
        if not spread:
            report.notes.append(f"All targets of output {name} are equal, so R2 is not defined and 0 here.")
    return report


def shown(value: float | None) -> str:
    """A number in the table."""
    return f"{value:,}" if isinstance(value, int) else show(value)
