"""Save a run while it trains, so that nothing is lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.every import Every
from callbacks.core.ranks import ALONE, Ranks
from callbacks.core.warning import warn
from callbacks.history.paths import PendingSave, as_path
from callbacks.model.held import Held
from callbacks.model.module_state import frozen_in
from callbacks.results.best import Best
from callbacks.results.measured_weights import MeasuredWeights, in_place
from callbacks.save.checkpoint_folder import (
    BEST,
    checkpoints_in,
    keep_as_best,
    leftovers,
    link,
    other_bests,
    remove,
    surplus,
)
from callbacks.save.failed_saves import report_failed, was_interrupted
from callbacks.save.folder_lock import FolderLock
from callbacks.save.shards_folder import remove_unused


class Checkpoint(Callback):
    """Save everything that a run needs to resume with `fit(resume="auto")` and end with the same bits.

    A file `step-<global step>.pt` is written at each interval and at the end of the fit. It is also written
    when the fit is ended by Ctrl-C, SIGTERM, a failing loader, or an error of a callback without state in
    `after_batch` of training or in `after_epoch`. The newest `keep` files stay, and also the file of the best
    epoch, `best-<global step>.pt`. It is always available as `best.pt` too; `learn.load_best()` loads its
    weights. Each file is written to a temporary file, flushed to disk and renamed, so that a run that is
    killed during a write still has the previous file.

    A full disk does not end the training: there is a warning, and the next interval tries again. After two
    failures in a row, or at the last save, the error is raised. If a signal or another error ends the fit, a
    failed save stays a warning.

    Args:
        folder: where the files are, such as `"runs/first"`; it is created. In a recipe it is relative to the
            folder of the run.
        every: the interval, such as `"1 epoch"`, `"200 steps"` or `"10 minutes"`.
        keep: the number of newest files that stay, at least 1; None for all.
        best: the name of a result, such as `"valid_loss"`; a file of its best epoch is kept. The file has the
            weights that `EarlyStopping` restores. If these are the weights before the epoch's update, the
            name has their step, and the file is for `learn.load`; a run resumes from the other files.
        mode: `"min"` or `"max"` for `best`; by default the direction that the loss or metric declares.
        asynchronous: copy the state at an interval, and write the file in a thread while training continues.
            The copy takes as much main memory as the file. The next save waits for the previous one; the last
            save is complete when the fit ends, even if the fit is interrupted.
        trainable_only: leave out parameters that are frozen from the start of the fit, such as the base model
            of LoRA adapters. The learner that loads a file must have the same base: a checksum is compared.

    Attributes:
        best: the best value so far; None at first. NaN is never better.
        best_epoch: the epoch of the best value, from 0 in each fit.

    Raises:
        FileExistsError: before the first step, the folder contains a run, and `fit` was called without
            `resume`.
        RuntimeError: another process saves to the folder; before the first step, or before a save if the
            folder was replaced.
        OSError: before the first step, the folder cannot be written to; later, the disk stays full.
        ValueError, TypeError: a setting cannot be used, or the state of a callback cannot be saved.
    """

    order = Order.SAVE
    state = ("best", "best_epoch", "pass_start")
    best = Held[float | None]("_best", "value", "The best value so far.")
    best_epoch = Held[int | None]("_best", "epoch", "The epoch of the best value, from 0 in each fit.")
    direction = Held[Direction | None]("_best", "direction", "Better: min or max.")  # type: ignore[assignment]
    pass_start = Held[dict[str, Any] | None]("_measured", "start", "Step and weights at the epoch's start.")
    saves_checkpoints = True
    MAX_FAILURES = 2  # in a row

    def __init__(
        self,
        folder: str | Path,
        every: str | Every = "1 epoch",
        keep: int | None = 3,
        best: str | None = None,
        *,
        mode: Direction | None = None,
        asynchronous: bool = False,
        trainable_only: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.trainable_only, self.asynchronous = trainable_only, asynchronous
        self.folder = as_path("Checkpoint", "folder", folder, "the name of a folder, such as 'runs/first'")
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(
                f"Checkpoint(keep={keep!r}): pass the number of files to keep, 1 or more, or None for all."
            )
        if best is not None and (not isinstance(best, str) or not best):
            raise TypeError(f"Checkpoint(best={best!r}): pass a result's name, such as 'valid_loss'.")
        self.every, self.keep, self.monitor = Every(every), keep, best
        self._best = Best("" if best is None else best, owner="Checkpoint", mode=mode)
        self._measured = MeasuredWeights(best or "")
        self._folder: Path | None = None
        self._lock: FolderLock | None = None
        self._unlocked: Exception | None = None  # why a resumed fit has no lock
        self._is_ours = False  # has this callback started the run in the folder?
        self._is_shared = False  # do several processes train?
        self._pending: tuple[Path, PendingSave] | None = None  # the file that a thread writes
        self._reset()

    def _reset(self) -> None:
        self._frozen: set[str] = set()  # parameters of the base model, which files leave out
        self._n_failures = 0
        self._in_epoch = self._has_warned = self._is_saved = False
        self._unlocked = None

    @property
    def monitors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The result that is monitored."""
        return (self._best.monitor,) if self._best.monitor else ()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._reset()
        self._frozen = set(frozen_in(learn.model)) if self.trainable_only else set()
        self._measured.begin_fit()
        self._is_shared = learn.ranks.size > 1
        self._folder = self._folder or Path(self.folder).absolute()  # before the fit changes the directory
        if learn.ranks.first(lambda: self._takes_folder(learn)):
            self._is_ours = learn.marks_passes = True
            self._begin(learn)

    def _takes_folder(self, learn: LearnerProtocol) -> bool:
        """Lock the folder, and remove what a killed process left; False if a resumed fit cannot lock it."""
        assert self._folder is not None
        if not self._has_lock(learn):
            return False
        if not (learn.resumed or self._is_ours) and checkpoints_in(self._folder):
            raise FileExistsError(
                f"{self.folder} contains a run already ({checkpoints_in(self._folder)[0].name}), which is "
                "not overwritten. To resume it: fit(..., resume='auto'). To start another run: pass another "
                "folder to Checkpoint, or delete this one."
            )
        self._remove(leftovers(self._folder))
        return True

    def _begin(self, learn: LearnerProtocol) -> None:
        """Start the intervals and the search for the best result."""
        self._step_begun = learn.global_step
        self.every.start(learn)
        if self.monitor is not None:
            value, epoch = self._best.value, self._best.epoch
            self._best.begin(learn)
            self._best.value, self._best.epoch = value, epoch  # the best of all fits

    def _has_lock(self, learn: LearnerProtocol) -> bool:
        """Lock the folder; a resumed fit raises the error later, because a finished run needs no lock."""
        assert self._folder is not None
        try:
            self._lock = self._lock or FolderLock(self._folder)
        except (OSError, RuntimeError) as error:
            if not learn.resumed:
                raise
            self._unlocked = error
        return self._lock is not None

    def before_epoch(self, learn: LearnerProtocol) -> None:
        learn.ranks.first(self._check_lock)
        self._in_epoch = True

    def _check_lock(self) -> None:
        if self._unlocked is not None:
            raise self._unlocked

    def before_train(self, learn: LearnerProtocol) -> None:
        if self.monitor is not None:
            self._measured.before_train(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        self._measured.after_train(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.is_aside:
            return  # in a callback: the position in the fit is not here
        if was_interrupted(learn) or learn.error is not None or self.every.after_batch(learn):
            self._is_saved = was_interrupted(learn)
            self._save(learn, "batch")

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._in_epoch = False
        if self._is_saved:
            return  # interrupted within a pass
        is_trained = learn.global_step > self._step_begun or not learn.results.get("skipped_updates")
        is_better = self.monitor is not None and is_trained and bool(self._best.update(learn))
        before_update = self._measured.release()
        is_last = bool(learn.stop_reason) or learn.epoch + 1 == learn.n_epochs
        if is_last or is_better or learn.error is not None or self.every.after_epoch(learn):
            self._save(learn, "epoch", is_last=is_last, is_best=is_better and not before_update)
        if is_better and before_update:
            self._save_measured(learn, before_update, is_last)

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self._in_epoch and not was_interrupted(learn):  # CancelFit ended the fit
            self._save(learn, "end", is_last=True)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        try:
            if self._lock is not None and learn.error is not None and learn.failed_between_batches:
                self._save(learn, "batch")
        finally:
            self._wait(learn, ALONE)  # after an error, other processes may be elsewhere
            if self._lock is not None:
                self._lock.release()
            learn.marks_passes = False
            self._lock = self._folder = None

    def _save(self, learn: LearnerProtocol, at: Any, *, is_last: bool = False, is_best: bool = False) -> None:
        if learn.error is not None and self._is_shared:
            return  # other processes may be at another batch
        self._wait(learn, learn.ranks)
        learn.ranks.prepare_save(learn)
        assert self._folder is not None
        path = self._folder / f"step-{learn.global_step:09}.pt"
        finish = partial(self._finish, path, is_best)
        try:
            learn.ranks.first(self._renew)
            if self.asynchronous and not (is_last or was_interrupted(learn) or learn.error):
                pending = learn.async_save(path, at=at, without=self._left_out(learn), then=finish)
                self._pending = path, pending
                return
            learn.save(path, at=at, without=self._left_out(learn))
            learn.ranks.first(finish)
            self._n_failures = 0
        except OSError as error:
            self._fail(learn, error, path, is_last)

    def _finish(self, path: Path, is_best: bool) -> None:
        """Keep a complete file as the best one, and remove those that it replaces."""
        former = keep_as_best(path) if is_best else []
        self._remove([*former, *surplus(path.parent, self.keep)])
        remove_unused(path.parent)

    def _wait(self, learn: LearnerProtocol, ranks: Ranks) -> None:
        """Wait until the file that a thread writes is complete."""
        if self._pending is None:
            return
        (path, pending), self._pending = self._pending, None
        try:
            ranks.first(pending.wait)
            pending.wait()  # in the other processes
            self._n_failures = 0
        except OSError as error:
            self._fail(learn, error, path, is_last=False)

    def _renew(self) -> None:
        assert self._lock is not None
        self._lock.renew()

    def _left_out(self, learn: LearnerProtocol) -> list[str]:
        """The parameters of the base model: frozen now, and at the start of the fit."""
        return [name for name in frozen_in(learn.model) if name in self._frozen]

    def _save_measured(self, learn: LearnerProtocol, start: dict[str, Any], is_last: bool) -> None:
        """Save the weights that were measured, before the update, as the best."""
        assert self._folder is not None
        self._wait(learn, learn.ranks)
        path = self._folder / f"best-{start['step']:09}.pt"
        try:
            with in_place(learn, start["weights"]):
                learn.save(path, at="before", without=self._left_out(learn))
            learn.ranks.first(lambda: link(path, path.with_name(BEST)))
        except OSError as error:
            self._fail(learn, error, path, is_last)
            return
        if learn.ranks.is_first:
            self._remove(other_bests(path))
            remove_unused(path.parent)

    def _remove(self, paths: list[Path]) -> None:
        """Remove old checkpoint files; a file that cannot be removed only takes up disk space."""
        error = remove(paths)
        if error is not None and not self._has_warned:
            self._has_warned = True
            warn(
                f"an old checkpoint cannot be removed ({error}). Training continues; remove such "
                "files by hand, because they take up disk space."
            )

    def _fail(self, learn: LearnerProtocol, error: OSError, path: Path, is_last: bool) -> None:
        """Warn of a failed save; raise the error if no other save follows, or too many have failed."""
        self._n_failures += 1
        is_final = is_last or self._n_failures >= self.MAX_FAILURES
        report_failed(learn, error, path, self._n_failures if is_final else 0)
