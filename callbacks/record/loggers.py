"""Write the results of each epoch to a CSV file."""

from __future__ import annotations

import csv
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.output import Output
from callbacks.history.paths import as_path, replacing
from callbacks.record.recorder import Recorder


class CSVLogger(Callback):
    """Write a line of comma-separated values at the end of each epoch: its number, results and seconds.

    Each line is on disk before the next epoch starts. Numbers keep all their digits. If a result first
    appears after the first epoch, the file is rewritten with a new column, and nothing is lost. Epochs are
    numbered as in the history, from 0 over all fits. A second fit continues the file of the first. If a line
    cannot be written, for example because the disk is full, there is one warning, and training continues
    without the file.

    Args:
        path: the file, such as `"runs/log.csv"`; folders are created.
        append: add lines to an existing file. By default an existing file is an error.

    Raises:
        TypeError: `path` is not the name of a file.
        FileExistsError: before the first epoch, the file exists and `append` is not set.
        ValueError: before the first epoch, the file to append to has no header with `epoch` in it.
        OSError: before the first epoch, the file cannot be written.
    """

    order = Order.REPORT

    def __init__(self, path: str | Path, *, append: bool = False, name: str | None = None):
        super().__init__(name=name)
        self.path = as_path("CSVLogger", "path", path, "the name of a file, such as 'log.csv'")
        self.append = append
        self._path: Path | None = None  # the file that this callback has started
        self._names: list[str] = []
        self._output = Output("CSVLogger")
        self._epoch, self._begun = 0, 0.0

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._path = self._path or (self.path.absolute() if learn.resumed else self._new_file())
        self._output = Output(f"CSVLogger(path={str(self.path)!r})")
        with self._output if learn.resumed else nullcontext():  # a finished run may be in a read-only folder
            self._open(self._path, learn)
        self.before_epoch(learn)  # which is not called if the callback is added within an epoch

    def _open(self, path: Path, learn: LearnerProtocol) -> None:
        """Prepare the file for the first row."""
        try:
            open_to_append(path).close()
        except OSError as error:
            error.add_note(
                f"CSVLogger(path={str(self.path)!r}): pass the name of a file that can be written."
            )
            raise
        end_last_line(path)
        if learn.resumed:
            drop_rows_from(path, len(learn.history) if Recorder in learn.callbacks else learn.epoch)
        self._names = read_header(path)

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._epoch = len(learn.history) if Recorder in learn.callbacks else learn.epoch
        self._begun = time.perf_counter()

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self._path is None or self._output.has_failed:
            return
        seconds = time.perf_counter() - self._begun
        row = {"epoch": self._epoch, **learn.results, "seconds": seconds}
        with self._output:
            self._write(row, self._path)

    def _write(self, row: dict[str, Any], path: Path) -> None:
        new = [name for name in row if name not in self._names]
        self._names += new
        if new and path.is_file():
            add_columns(path, self._names)
        with open_to_append(path) as file:
            writer = csv.DictWriter(file, self._names, lineterminator="\n")
            if file.tell() == 0:  # the file was deleted
                writer.writeheader()
            writer.writerow(row)

    def _new_file(self) -> Path:
        path = self.path.absolute()  # now, because the fit may change the working directory
        if not path.is_file() or path.stat().st_size == 0:
            return path
        place = f"CSVLogger(path={str(self.path)!r})"
        if not self.append:
            raise FileExistsError(
                f"{place}: the file exists already and is not overwritten. Append to it with append=True, "
                "or pass another path."
            )
        names = read_header(path)
        if "epoch" not in names:
            raise ValueError(
                f"{place}: the file to append to has no column 'epoch', but begins with "
                f"{','.join(names)[:60]!r}. Pass the path of a CSVLogger's file, or a new one."
            )
        return path


def open_to_append(path: Path) -> TextIO:
    """Open the file at its end; create the file and its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", newline="", encoding="utf-8")


def end_last_line(path: Path) -> None:
    """End the last line, if a run was killed while it wrote it."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def drop_rows_from(path: Path, epoch: int) -> None:
    """Remove the last rows, of epochs that a resumed run repeats."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    n_rows = len(rows)
    column = rows[0].index("epoch") if rows and "epoch" in rows[0] else None
    while column is not None and len(rows) > 1 and not is_before(rows[-1][column : column + 1], epoch):
        rows.pop()
    if len(rows) < n_rows:
        rewrite(path, rows)


def is_before(cells: list[str], epoch: int) -> bool:
    """Is it the number of an earlier epoch? Half a row, from a killed run, is not."""
    return any(cell.isdecimal() and int(cell) < epoch for cell in cells)


def read_header(path: Path) -> list[str]:
    """The names in the first line of a file; an empty list if the file is empty."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return next(csv.reader(file), [])


def add_columns(path: Path, names: list[str]) -> None:
    """Rewrite a file with more columns, which are empty in the existing rows."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    rewrite(path, [names, *([*row, *[""] * (len(names) - len(row))] for row in rows)])


def rewrite(path: Path, rows: list[list[str]]) -> None:
    """Replace a file with other rows in one step; the old file exists until then."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
