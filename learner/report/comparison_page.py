"""Several runs as one page: results, curves together, differences."""

from __future__ import annotations

from html import escape

from learner.report.comparison import MISSING, Comparison
from learner.report.curves import DASHES, SERIES, Line, panel, values_of
from learner.report.page import Cell, page, paragraph, section, shown, table
from learner.report.reporting import RunReport
from learner.report.run_page import duration


def comparison_report(found: Comparison) -> RunReport:
    """The page of a comparison."""
    title = f"{len(found.records)} runs compared"
    sections = [
        section("Results", verdict(found), results(found)),
        section("Curves", legend(found), curves(found)),
        section("Differences", differences(found)),
    ]
    return RunReport(page(title, "", sections))


def verdict(found: Comparison) -> str:
    """Which run is best by the first result."""
    name = found.results[0] if found.results else ""
    best = sorted(found.winners(name)) if name else []
    if not best:
        return ""
    top = found.records[best[0]].best(name)
    assert top is not None
    names = ", ".join(found.names[n] for n in best)
    return paragraph(f"Best {name}: {names}, with {shown(float(top.value))} in epoch {top.epoch}.")


def results(found: Comparison) -> str:
    """A row per run; the best of each result is marked."""
    names, best = found.results, {name: found.winners(name) for name in found.results}
    rows = []
    for n, record in enumerate(found.records):
        values = [Cell(found.value(record, name), is_best=n in best[name]) for name in names]
        seconds = MISSING if record.seconds is None else duration(record.seconds)
        rows.append([found.names[n], *values, len(record.rows), seconds, record.facts.get("status")])
    note = "Each result is the best of its run's epochs; the last one if the better direction is not known."
    head = ["run", *names, "epochs", "time", "status"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows, caption="Results of the runs") + paragraph(note, "dim")


def legend(found: Comparison) -> str:
    """The line of each run."""
    items = []
    for n, name in enumerate(found.names):
        dashes = DASHES[(n + n // len(SERIES)) % len(DASHES)]
        pattern = "" if isinstance(dashes, str) else " ".join(f"{2 * length:g}" for length in dashes[1])
        style = (
            f'stroke="var(--series-{n % len(SERIES) + 1})" stroke-width="2.5" stroke-dasharray="{pattern}"'
        )
        line = f'<line x1="0" x2="36" y1="5" y2="5" {style}/>'
        line = f'<svg width="36" height="10" aria-hidden="true">{line}</svg>'
        items.append(f"<li>{line}{escape(name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def curves(found: Comparison) -> str:
    """A panel per result with a line per run; the best run's best epoch is marked."""
    figures = []
    for name in [*found.results, "lr"]:
        best = found.winners(name)
        lines = [line_of(found, n, name, is_best=n in best) for n in range(len(found.records))]
        title = "learning rate" if name == "lr" else name
        caption = f"best: {', '.join(found.names[n] for n in sorted(best))}" if best else ""
        figures.append(panel(title, caption, lines, has_legend=False))
    return f'<div class="panels">{"".join(figures)}</div>' if any(figures) else ""


def line_of(found: Comparison, n: int, name: str, *, is_best: bool) -> Line:
    """A run's line in the panel of a result."""
    record = found.records[n]
    best = record.best(name) if is_best else None
    mark = None if best is None else (float(best.epoch), best.value)
    return Line(found.names[n], record.epochs, values_of(record.rows, name), mark)


def differences(found: Comparison) -> str:
    """A row per setting that is not the same in all runs."""
    rows = [[path, *values] for path, values in found.differences.items()]
    body = table(["setting", *found.names], rows, caption="Settings in which the runs differ")
    return body or paragraph("The settings do not differ.")
