"""Pass numbers to loggers at an interval: any function, a file of JSON lines, TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.every import Every
from callbacks.core.missing_names import import_extra
from callbacks.core.output import Output
from callbacks.history.paths import as_path, replacing
from callbacks.record.tracked import files_of, settings_of

Write = Callable[[dict[str, float], int], Any]


class NumberLogger(Callback):
    """A callback that logs numbers at an interval; subclasses open the output and write to it.

    Args:
        every: as for `Every`. The numbers of an epoch are logged at its end. With another unit, the loss and
            rates of a step are logged too; reading the loss waits for the device.
    """

    order = Order.REPORT

    def __init__(self, every: str | Every, *, name: str | None = None):
        super().__init__(name=name)
        self._every, self._output = Every(every), Output(type(self).__name__)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._every.start(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if self._every.after_batch(learn):
            groups = enumerate(learn.optimizer.param_groups)
            rates = {f"lr_{n}" if n else "lr": group.get("lr") for n, group in groups}
            found = {"loss": float(learn.loss), **rates}  # an intended wait, at the interval
            self._add({name: float(value) for name, value in found.items() if value is not None}, learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self._every.unit != "epoch" or self._every.after_epoch(learn):
            numbers = {
                name: value for name, value in learn.results.items() if isinstance(value, (int, float))
            }
            self._add({"epoch": learn.epoch, **numbers}, learn)

    def _add(self, values: dict[str, float], learn: LearnerProtocol) -> None:
        if not self._output.has_failed:
            with self._output:
                self._write(values, learn)

    def _write(self, values: dict[str, float], learn: LearnerProtocol) -> None:
        """Write the numbers of a step or an epoch."""
        raise NotImplementedError


class ScalarLogger(NumberLogger):
    """Pass numbers to any function of `(values, step)`, and so to any logger.

        ScalarLogger(lambda values, step: wandb.log(values, step=step))
        ScalarLogger(lambda values, step: mlflow.log_metrics(values, step=step))
        ScalarLogger(lambda values, step: experiment.log_metrics(values, step=step))  # Comet
        ScalarLogger(lambda values, step: trackio.log(values, step=step))

    A tracker can also keep the settings and files of a run:

        ScalarLogger(..., settings=wandb.config.update, file=wandb.log_artifact)
        ScalarLogger(..., settings=mlflow.log_params, file=mlflow.log_artifact)

    A resumed run logs repeated steps a second time. If a function raises an `OSError`, for example because of
    the network or a full disk, training continues: there is one warning, and the function is not called again
    in this fit.

    Args:
        write: receives the numbers by name, and the global step.
        settings: receives a dict when a fit starts: model, loss, optimizer and its settings, number of
            parameters and epochs, callbacks, device, versions.
        file: receives the path of each file when a fit ends, and must copy it: the history as `history.csv`,
            and what other callbacks have written to their `path`, such as plots.
        every: the interval; the default is the end of each epoch. `"50 steps"` also logs the loss before the
            update and the rates of each 50th step, which waits for the device.

    Raises:
        TypeError: `write` cannot be called.
        ValueError: `every` is not an interval.
    """

    def __init__(
        self,
        write: Write,
        every: str | Every = "1 epoch",
        *,
        settings: Callable[[dict[str, Any]], Any] | None = None,
        file: Callable[[str], Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(every, name=name)
        if not callable(write):
            raise TypeError(f"ScalarLogger({write!r}): pass a function of (values, step), such as print.")
        for argument, given in (("settings", settings), ("file", file)):
            if given is not None and not callable(given):
                raise TypeError(f"ScalarLogger({argument}={given!r}): pass a function, or omit it.")
        self.write, self.settings, self.file = write, settings, file

    def before_fit(self, learn: LearnerProtocol) -> None:
        super().before_fit(learn)
        self._output = Output(f"ScalarLogger({getattr(self.write, '__name__', type(self.write).__name__)})")
        if self.settings is not None:
            with self._output:
                self.settings(settings_of(learn))

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.file is None or self._output.has_failed:
            return
        with self._output, TemporaryDirectory() as folder:
            history = [learn.history.to_csv(Path(folder, "history.csv"))] if len(learn.history) else []
            for path in (*history, *files_of(learn)):
                self.file(str(path))

    def _write(self, values: dict[str, float], learn: LearnerProtocol) -> None:
        self.write(values, learn.global_step)


class JSONLines(NumberLogger):
    """Write a line of JSON at each interval: `{"step": 40, "epoch": 0, "train_loss": 0.31, ...}`.

    A line is on disk when the next batch starts. Numbers that are not finite are `null`, because JSON has no
    NaN. A resumed run continues its file, without the lines of steps that it repeats. A second fit of the
    same learner continues the file too.

    Args:
        path: the file, such as `"runs/log.jsonl"`; folders are created.
        every: as for `ScalarLogger`.
        append: add lines to an existing file. By default an existing file is an error.

    Raises:
        TypeError, ValueError: `path` is not the name of a file, or `every` is not an interval.
        FileExistsError: before the first epoch, the file exists and `append` is not set.
        OSError: before the first epoch, the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        every: str | Every = "1 epoch",
        *,
        append: bool = False,
        name: str | None = None,
    ):
        super().__init__(every, name=name)
        self.path = as_path("JSONLines", "path", path, "the name of a file, such as 'log.jsonl'")
        self.append = append
        self._path: Path | None = None  # the file that this callback has started

    def before_fit(self, learn: LearnerProtocol) -> None:
        path = self._path or self.path.absolute()
        if not (self._path or self.append or learn.resumed) and path.is_file() and path.stat().st_size:
            raise FileExistsError(
                f"JSONLines(path={str(self.path)!r}): the file exists already and is not overwritten. "
                "Append to it with append=True, or pass another path."
            )
        self._output = Output(f"JSONLines(path={str(self.path)!r})")
        with self._output if learn.resumed else nullcontext():  # a finished run may be in a read-only folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a", encoding="utf-8").close()
            if learn.resumed:
                drop_lines_after(path, learn.global_step)
        self._path = path
        super().before_fit(learn)

    def _write(self, values: dict[str, float], learn: LearnerProtocol) -> None:
        assert self._path is not None
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": learn.global_step, "epoch": learn.epoch, **shown}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class TensorBoard(NumberLogger):
    """Write numbers to TensorBoard event files; `tensorboard --logdir FOLDER` shows them.

    When a run resumes, the points logged for the steps that it repeats are hidden.

    Args:
        folder: where the event files are written.
        every: as for `ScalarLogger`.

    Raises:
        ImportError: the package `tensorboard` is missing.
        TypeError, ValueError: `folder` is not the name of a folder, or `every` is not an interval.
    """

    def __init__(self, folder: str | Path, every: str | Every = "1 epoch", *, name: str | None = None):
        super().__init__(every, name=name)
        import_extra("tensorboard", "TensorBoard")
        self.folder = as_path("TensorBoard", "folder", folder, "the name of a folder, such as 'runs'")
        self._writer: Any = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.cleanup_fit(learn)
        purged = learn.global_step + 1 if learn.resumed else None
        self._output = Output(f"TensorBoard(folder={str(self.folder)!r})")
        with self._output if learn.resumed else nullcontext():
            self._writer = SummaryWriter(str(self.folder.absolute()), purge_step=purged)
        super().before_fit(learn)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._output:
                writer.close()

    def _write(self, values: dict[str, float], learn: LearnerProtocol) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, learn.global_step)


def drop_lines_after(path: Path, step: int) -> None:
    """Remove the last lines, of steps that a resumed run repeats, and half a line of a killed run."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    n_lines = len(lines)
    while lines and step_of(lines[-1]) > step:
        lines.pop()
    if len(lines) < n_lines:
        with replacing(path) as part:
            part.write_text("".join(lines), encoding="utf-8")


def step_of(line: str) -> float:
    """The step of a line; infinity if it is not a complete line of ours."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
