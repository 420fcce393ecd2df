"""What a run of a recipe keeps."""

from __future__ import annotations

import csv
from pathlib import Path

SAVING = ("callbacks.Checkpoint.folder=saved", "callbacks.Checkpoint.every=7 steps")


def history_of(folder: str) -> list[dict[str, str]]:
    """The rows of a run's history."""
    with (Path(folder) / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
