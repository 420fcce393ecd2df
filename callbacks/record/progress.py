"""Show the progress of a fit."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, NamedTuple

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.every import Every
from callbacks.core.output import Output, print_line
from callbacks.history.direction import guess_direction
from callbacks.history.drawing import check_drawing
from callbacks.history.history import show
from callbacks.record.bar import Bar, can_show_a_bar, in_notebook, is_terminal, n_columns
from callbacks.record.epoch_table import EpochTable, aside_of, monitored_by
from callbacks.record.notebook import NotebookTable
from callbacks.record.unsaved_weights import report_unkept
from callbacks.results.loss_weight import LossWeight
from callbacks.results.means import Mean
from callbacks.schedule.budgets import n_batches_of

REFRESH = 0.1  # seconds: nobody can read faster than ten times per second
N_LINES = 20  # lines that are always printed; after them at most one per LINE_GAP
LINE_GAP = 1.0  # seconds
NEVER = math.inf


class Progress(Callback):
    """Print a table with a row per epoch and, in a terminal or notebook, draw a bar for the whole fit.

    A row shows the epoch, counted from 0 in each fit, losses, metrics, the learning rate and the time. In a
    terminal, the table is never wider than the screen: less important columns are left out, and a line names
    them. A result that a callback measures has a column if another callback monitors it; the history has all
    results. The table goes to standard output. After the first twenty rows there is at most one per second,
    so that short epochs do not flood a log. The last epoch always has a row. The last line names the best
    epoch, by the monitored result or else by `valid_loss`, unless a callback reports that it has restored its
    weights. The reason for a stop has a line too.

    The bar counts training and validation batches. It goes to standard error, is drawn at most ten times per
    second, and disappears when the fit ends. Other output in a terminal appears above it. There is no bar if
    standard error is not a terminal. If output fails, as on a full disk, training continues.

    In a notebook the table is one HTML output that grows.

    Args:
        plot: draw the curves of `learn.history.plot()` below the table while the fit runs, at most once per
            second; only in a notebook.

    Raises:
        ImportError: with `plot`, matplotlib is missing.
    """

    order = Order.REPORT
    shows_progress = True

    def __init__(self, *, plot: bool = False, name: str | None = None):
        super().__init__(name=name)
        if plot:
            check_drawing("Progress(plot=True)")
        self.plot = plot
        self._reset()

    def _reset(self) -> None:
        self._bar: Bar | None = None
        self._output = Output("Progress: the bar on sys.stderr")
        self._next_draw = NEVER
        self._lengths: dict[str, int | None] = {}  # of each pass of an epoch
        self._n_passed = 0  # batches of the completed passes, if the lengths are unknown
        self._fit_begun = self._epoch_begun = 0.0
        self._next_line, self._n_lines = 0.0, 0
        self._left_out: tuple[int, dict[str, Any], float] | None = None  # an epoch without a row so far
        self._table = EpochTable(1, None)
        self._notebook: NotebookTable | None = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.cleanup_fit(learn)
        self._fit_begun = self._epoch_begun = time.monotonic()
        self._lengths = {
            name: learn.ranks.n_steps(0 if each is None else n_batches_of(each))
            for name, each in learn.data.loaders.items()
        }
        self._next_draw = 0.0 if can_show_a_bar() else NEVER
        width = n_columns(sys.stdout) if is_terminal(sys.stdout) else None
        self._notebook = NotebookTable() if in_notebook() else None
        width = None if self._notebook else width
        self._table = EpochTable(learn.n_epochs, width, monitored_by(learn), aside_of(learn))

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._epoch_begun = time.monotonic()

    def before_train(self, learn: LearnerProtocol) -> None:
        if time.monotonic() >= self._next_draw:
            self._draw(learn, 0)

    before_validate = before_train

    def after_batch(self, learn: LearnerProtocol) -> None:
        if time.monotonic() >= self._next_draw:
            self._draw(learn, learn.batch_idx + 1)

    def after_train(self, learn: LearnerProtocol) -> None:
        """Count the batches of the pass; from now on expect that many if the loader's `len` was wrong."""
        if learn.is_aside:
            return
        n_done, known = learn.batch_idx + 1, self._lengths.get(learn.pass_name)
        self._n_passed += n_done
        if known in (None, n_done) or learn.n_batches != n_done:
            return
        self._lengths[learn.pass_name] = n_done
        if self._bar is not None:
            self._bar.total = self._total(learn)

    after_validate = after_train

    def after_epoch(self, learn: LearnerProtocol) -> None:
        now = time.monotonic()
        self._left_out = learn.epoch, learn.results, now - self._epoch_begun
        if now >= self._next_line or self._n_lines < N_LINES:
            self._print_row(learn)
            self._next_line = now + LINE_GAP

    def after_fit(self, learn: LearnerProtocol) -> None:
        self._print_row(learn)
        if self._notebook is not None and self.plot:
            self._notebook.draw(learn, is_last=True)
        if self._table.left_out:
            print_line(f"no space for {', '.join(self._table.left_out)}: see learn.history")
        if learn.stop_reason:
            print_line(f"stopped in epoch {learn.epoch}: {learn.stop_reason}")
        best = best_of(learn) if self._n_lines else None
        if best is not None and not (best.epoch < learn.epoch and best.name in names_restored_by(learn)):
            print_line(f"best epoch: {best.epoch} ({best.name} {show(best.value)})")
        report_unkept(learn, in_notebook=self._notebook is not None)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._print_row(learn)
        if self._bar is not None:
            with self._output:
                self._bar.close()
        self._reset()

    def _print_row(self, learn: LearnerProtocol) -> None:
        if self._left_out is None:
            return
        lines = self._table.lines(*self._left_out)
        self._left_out = None
        self._n_lines += 1
        if self._notebook is None:
            print_line("\n".join(lines))
            return
        best = best_of(learn)
        self._notebook.show(self._table, None if best is None else best.epoch)
        if self.plot:
            self._notebook.draw(learn)

    def _draw(self, learn: LearnerProtocol, n_done: int) -> None:
        """Draw the bar after `n_done` batches of this pass."""
        width = len(str(learn.n_epochs))
        title = f"epoch {learn.epoch:{width}}/{learn.n_epochs} {learn.pass_name}"
        value = learn.loss if n_done else None  # in validation there may be none
        # an intended wait: the loss is read when it is drawn, at most ten times per second; its width is
        # constant, so that the bar does not move
        loss = "" if value is None else f"loss {float(value):<9.4g}"
        with self._output:
            if self._bar is None:
                self._bar = Bar(self._total(learn), begun=self._fit_begun)
            self._bar.draw(self._n_before(learn) + n_done, title, loss)
        self._next_draw = NEVER if self._output.has_failed else time.monotonic() + REFRESH

    def _total(self, learn: LearnerProtocol) -> int | None:
        lengths = list(self._lengths.values())
        return None if None in lengths else learn.n_epochs * sum(lengths)  # type: ignore[arg-type]

    def _n_before(self, learn: LearnerProtocol) -> int:
        """Batches of this fit before the current pass; also correct if a pass was ended early."""
        lengths = [length for length in self._lengths.values() if length is not None]
        if len(lengths) < len(self._lengths):
            return self._n_passed
        names = list(self._lengths)
        number = names.index(learn.pass_name) if learn.pass_name in names else 0
        return learn.epoch * sum(lengths) + sum(lengths[:number])


class BestEpoch(NamedTuple):
    """The best epoch of a fit by one result."""

    name: str
    epoch: int
    value: float


def best_of(learn: LearnerProtocol) -> BestEpoch | None:
    """The best epoch of this fit by the monitored result, or else by `valid_loss`; None for one epoch."""
    rows = list(learn.history)[-learn.epoch - 1 :]
    if len(rows) < 2 or len(rows) <= learn.epoch:  # without Recorder the history may be empty
        return None
    for name in (*monitored_by(learn), "valid_loss"):
        direction = learn.measured.get(name) or guess_direction(name)
        found = [BestEpoch(name, n, row[name]) for n, row in enumerate(rows) if is_finite(row.get(name))]
        if found and direction is not None:
            return (min if direction == "min" else max)(found, key=lambda each: each.value)
    return None


def is_finite(value: Any) -> bool:
    """Is it a number that can be the best one?"""
    return isinstance(value, (int, float)) and math.isfinite(value)


def names_restored_by(learn: LearnerProtocol) -> set[str]:
    """The results by which callbacks restore the best weights, and report it."""
    return {name for each in learn.callbacks if each.restores_weights for name in each.monitors}


class LogRMSE(Callback):
    """Print the square root of the training loss, with all its digits: `RMSE: 74.96194346966999`.

    For a step this is the loss before the update; for an epoch, the mean loss of the pass, as in `Metrics`.
    It is the root of the mean squared error only if the loss is a mean squared error, such as
    `torch.nn.functional.mse_loss`; for other losses use the metric `RMSE`.

    Args:
        every: the interval, such as `"1 step"`, `"2 epochs"` or `"10 seconds"`. Each line waits for the
            device, so choose an interval of many steps if speed matters.

    Raises:
        ValueError: `every` is not an interval.
    """

    order = Order.REPORT
    state = ("under_way",)

    def __init__(self, every: str | Every = "1 step", *, name: str | None = None):
        super().__init__(name=name)
        self.every = Every(every)
        self._losses, self._weight = Mean(), LossWeight()

    @property
    def under_way(self) -> dict[str, Any]:
        """Losses and weights of the current pass's batches, if a line is printed per epoch."""
        return self._losses.state_dict()

    @under_way.setter
    def under_way(self, kept: dict[str, Any]) -> None:
        self._losses.load_state_dict(kept)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.every.start(learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._losses.clear()
        self._weight.look(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and self.every.unit == "epoch":
            self._losses.add(learn.loss, self._weight.of(learn))
        elif self.every.after_batch(learn):
            print_root(float(learn.loss))  # an intended wait: the line shows this step

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self.every.after_epoch(learn) and self._losses.n_batches:
            print_root(self._losses.compute(adds_up=self._weight.adds_up(learn)))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._losses.clear()


def print_root(loss: float) -> None:
    """Print the root of a loss; NaN if the loss is negative."""
    print_line(f"RMSE: {math.sqrt(loss) if loss >= 0 else math.nan}")
