"""`learner runs`: the runs of a folder with their best results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.files.run_files import BEST, FINAL, weights_file
from learner.report.page import shown
from learner.report.records import Best, Record, is_number, record_of_folder
from learner.report.run_page import duration
from learner.report.text_tables import shortened, tabulated

UNKNOWN = "-"
OF_RUNS = ("run.json", "history.csv")  # what a run's folder has beside its recipe


def runs_in(folder: Path) -> list[Record]:
    """The runs in a folder and its sweeps, the best results first, those without a result last."""
    found = {each.parent for each in folder.rglob("recipe.yaml")}
    paths = sorted(each for each in found if any((each / name).is_file() for name in OF_RUNS))
    records = [record_of_folder(each) for each in paths]
    for record in records:
        record.name = record.folder.relative_to(folder).as_posix() if record.folder else record.name
    return sorted(records, key=rank)


def rank(record: Record) -> tuple[bool, str, float, str]:
    """The place of a run in the list."""
    name, best = best_in(record)
    if best is None:
        return True, "", 0.0, record.name
    return False, name, best.value if best.direction == "min" else -best.value, record.name


def best_in(record: Record) -> tuple[str, Best | None]:
    """The name and the best value of the most important result, even of a run that has no history yet."""
    name, monitored = record.main_result, record.facts.get("monitored") or {}
    if name is not None:
        return name, record.best(name)
    known = monitored.get("direction") in ("min", "max") and is_number(monitored.get("value"))
    values: list[Any] = [monitored.get(key) for key in ("value", "epoch", "direction")]
    return str(monitored.get("name")), Best(*values) if known else None


def table_of(records: Sequence[Record]) -> str:
    """The runs as a table that fits the terminal."""
    heads = ("run", "status", "epochs", "best result", "in epoch", "time", "weights")
    rows = [heads, *map(cells, records)]
    columns = [[row[n] for row in rows] for n in range(len(heads))]
    return tabulated(columns)


def cells(record: Record) -> tuple[str, ...]:
    """The row of a run."""
    name, best = best_in(record)
    seconds, folder = record.seconds, record.folder
    kept = [
        word for word, file in (("final", FINAL), ("best", BEST)) if folder and weights_file(folder, file)
    ]
    return (
        shortened(record.name),
        str(record.facts.get("status") or UNKNOWN),
        str(record.n_epochs),
        UNKNOWN if best is None else f"{name} {shown(best.value)}",
        UNKNOWN if best is None else str(best.epoch),
        duration(seconds) if is_number(seconds) else UNKNOWN,
        ", ".join(kept) or "none",
    )


def as_facts(records: Sequence[Record]) -> list[dict[str, object]]:
    """The runs as data: `run.json` of each, without its code, with the folder's path."""
    return [
        {"folder": str(each.folder), **{key: value for key, value in each.facts.items() if key != "code"}}
        for each in records
    ]
