"""Runs side by side: their results, curves, and the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from shutil import get_terminal_size

from learner.data.tensors import describe
from learner.messages.keywords import suggest_keywords
from learner.report.curves import DASHES, SERIES, Line, panel, values_of
from learner.report.page import Cell, page, paragraph, section, shown, table
from learner.report.records import Record, flattened, is_finite, record_of_folder, record_of_learner
from learner.report.reporting import RunReport
from learner.report.run_page import duration, ordered
from learner.report.text_tables import MISSING, Scale, shortened, tabulated
from learner.state.protocol import FullLearner


class Comparison:
    """Several runs side by side, as tables in the terminal and as a page.

    Attributes:
        records: the runs.
        names: a unique name for each run.
    """

    def __init__(self, records: Sequence[Record]):
        self.records, self.names = list(records), distinct_names(records)

    @property
    def results(self) -> list[str]:
        """The results that any run measures; the one that the first run monitors comes first."""
        main = [record.main_result for record in self.records if record.main_result][:1]
        return list(dict.fromkeys([*main, *(name for each in self.records for name in ordered(each))]))

    def value(self, record: Record, name: str) -> float | None:
        """The best value of a result, or the last one if its better direction is not known."""
        best = record.best(name)
        if best is not None:
            return best.value
        found = [row[name] for row in record.rows if isinstance(row.get(name), (int, float))]
        return float(found[-1]) if found else None

    def winners(self, name: str) -> set[int]:
        """The positions of the runs whose value is best; empty if fewer than two have one."""
        found = {n: each.best(name) for n, each in enumerate(self.records)}
        values = {n: best.value * (1 if best.direction == "min" else -1) for n, best in found.items() if best}
        return {n for n in values if values[n] == min(values.values())} if len(values) > 1 else set()

    @property
    def differences(self) -> dict[str, list[str]]:
        """The settings that are not the same in all runs, by dotted path, with the value of each run."""
        settings = [settings_of(record) for record in self.records]
        paths = dict.fromkeys(path for each in settings for path in each)
        found = {path: [each.get(path, MISSING) for each in settings] for path in paths}
        return {path: values for path, values in found.items() if len(set(values)) > 1}

    def report(self) -> RunReport:
        """The page of the comparison; its `save` writes it."""
        sections = [
            section("Results", verdict(self), results_table(self)),
            section("Curves", legend(self), curves(self)),
            section("Differences", differences(self)),
        ]
        return RunReport(page(f"{len(self.records)} runs compared", "", sections))

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def __repr__(self) -> str:
        width = get_terminal_size((80, 24)).columns
        return "\n\n".join(filter(None, [self._table(width), self._curves(width), self._settings(width)]))

    def _table(self, width: int) -> str:
        columns = [["run", *map(shortened, self.names)]]
        columns.append(["epochs", *(str(each.n_epochs) for each in self.records)])
        times = [each.seconds for each in self.records]
        columns.append(["time", *(MISSING if each is None else duration(each) for each in times)])
        columns += [self._column(name) for name in self.results]
        return f"{tabulated(columns, width)}\n\n* is best. Each result is the best of its run's epochs."

    def _column(self, name: str) -> list[str]:
        best, cells = self.winners(name), []
        for n, record in enumerate(self.records):
            value = self.value(record, name)
            cells.append((MISSING if value is None else shown(value)) + ("*" if n in best else " "))
        return [f"{name} ", *cells]

    def _curves(self, width: int) -> str:
        name = self.results[0] if self.results else ""
        curves = [[row.get(name) for row in each.rows] for each in self.records]
        values = [float(value) for curve in curves for value in curve if is_finite(value)]
        names = [shortened(each) for each in self.names]
        room = width - max(map(len, names)) - 2
        if not values or room < 10:
            return ""
        scale = Scale(min(values), max(values), max(map(len, curves)), room)
        title = f"{name} by epoch, from {shown(scale.low)} (lowest) to {shown(scale.high)} (highest)"
        lines = [
            f"{each:{width - room - 2}}  {scale.drawn(curve)}"
            for each, curve in zip(names, curves, strict=True)
        ]
        return "\n".join([title, *map(str.rstrip, lines)])

    def _settings(self, width: int) -> str:
        found = self.differences
        if not found:
            return "The settings do not differ."
        columns = [["setting", *(shortened(path, 44) for path in found)]]
        for n, name in enumerate(self.names):
            columns.append([shortened(name), *(shortened(values[n]) for values in found.values())])
        return tabulated(columns, width)


@suggest_keywords
def compare(*runs: str | Path | FullLearner) -> Comparison:
    """Compare runs: their results, curves, and the settings in which they differ.

    Args:
        runs: folders of runs, or learners; at least two.

    Raises:
        TypeError: one is neither a folder nor a learner.
        ValueError: there are fewer than two, one is given twice, or a folder is not a run's folder.
    """
    wrong = [run for run in runs if not isinstance(run, (str, Path)) and not hasattr(run, "history")]
    if wrong:
        hint = (
            " Several are separate arguments: compare(*runs)." if isinstance(wrong[0], (tuple, list)) else ""
        )
        raise TypeError(f"compare: {describe(wrong[0])} is neither a folder of a run nor a learner.{hint}")
    if len(runs) < 2:
        raise ValueError(
            f"compare: {len(runs)} run given. Pass at least two, such as runs/digits-1 runs/digits-2."
        )
    keys = [Path(run).resolve() if isinstance(run, (str, Path)) else id(run) for run in runs]
    twice = [run for n, run in enumerate(runs) if keys[n] in keys[:n]]
    if twice:
        raise ValueError(f"compare: {twice[0]} is given twice. Pass each run once.")
    return Comparison(
        [
            record_of_folder(each) if isinstance(each, (str, Path)) else record_of_learner(each)
            for each in runs
        ]
    )


def distinct_names(records: Sequence[Record]) -> list[str]:
    """The name of each run; its path if another one has the same name."""
    counts, seen = Counter(record.name for record in records), Counter()
    names = []
    for record in records:
        seen[record.name] += 1
        other = str(record.folder) if record.folder else f"{record.name} ({seen[record.name]})"
        names.append(record.name if counts[record.name] == 1 else other)
    return names


def settings_of(record: Record) -> dict[str, str]:
    """The settings of a run, and its environment."""
    return {**record.recipe, **flattened(record.facts.get("environment", {}), "environment")}


def verdict(found: Comparison) -> str:
    """Which run is best by the first result."""
    name = found.results[0] if found.results else ""
    best = sorted(found.winners(name)) if name else []
    if not best:
        return ""
    top = found.records[best[0]].best(name)
    assert top is not None
    names = ", ".join(found.names[n] for n in best)
    return paragraph(f"Best {name}: {names}, with {shown(top.value)} in epoch {top.epoch}.")


def results_table(found: Comparison) -> str:
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
