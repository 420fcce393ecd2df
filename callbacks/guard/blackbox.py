"""Keep the step that raised an error, so that it can be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.core import draws
from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.distributed.rendezvous import OtherRankError
from callbacks.history.paths import as_path

FILE = "blackbox.pt"


class BlackBox(Callback):
    """Save the step that raised an error to a file, so that `learner replay` can run it again.

    The file contains the batch, weights, buffers, the state of callbacks and optimizer, the random states at
    the start of the step, the counters and the error. It is written for an error between `before_batch` and
    `after_batch` of training, including a bad loss found by `StopOnNaN`, and replaces the previous file. The
    error propagates unchanged, with a note that shows where the file is, or why there is none.

    This costs a few microseconds per step, for torch's random state. The states of Python and NumPy cost
    more, so they are copied in the first steps of a pass, and later only if those steps drew from them.

    Args:
        folder: where to write `blackbox.pt`. It is created when there is something to write.

    Raises:
        TypeError: `folder` is not the name of a folder.
    """

    only_observes = acts_outside = True
    order = Order.PREPARE  # before callbacks that draw random numbers for the batch
    N_WATCHED = 10  # steps of a pass; code that draws random numbers usually does so in each step

    def __init__(self, folder: str | Path = "blackbox", *, name: str | None = None):
        super().__init__(name=name)
        self.folder = as_path("BlackBox", "folder", folder, "the name of a folder, such as 'blackbox'")
        self._clear()

    def _clear(self) -> None:
        self._folder: Path | None = None
        self._start: dict[str, Any] | None = None  # of the current step
        self._n_watched = 0
        self._taken = draws.GENERATORS
        self._drawn: set[str] = set()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._clear()
        self._folder = self.folder.absolute()  # the fit may change the working directory

    def before_train(self, learn: LearnerProtocol) -> None:
        self._start, self._n_watched, self._taken = None, 0, draws.GENERATORS

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._start = {
                "random": draws.take(self._taken),
                "inputs": learn.inputs,
                "targets": learn.targets,
                "global_step": learn.global_step,
                "batch_idx": learn.batch_idx,
            }

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and self._start and self._n_watched < self.N_WATCHED:
            self._watch(self._start["random"])

    def _watch(self, before: dict[str, Any]) -> None:
        """Find out whether this step drew from the generators whose states are expensive to take."""
        now = draws.take(set(before) - set(draws.CHEAP))
        self._drawn |= {name for name, state in now.items() if draws.differ(name, before[name], state)}
        self._n_watched += 1
        if self._n_watched == self.N_WATCHED:
            self._taken = (*draws.CHEAP, *sorted(self._drawn))

    def after_train(self, learn: LearnerProtocol) -> None:
        self._start = None

    before_validate = after_epoch = after_train  # a pass may have been cancelled

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        start, folder, error = self._start, self._folder, learn.error
        self._clear()
        if start is None or folder is None or not isinstance(error, Exception):
            return
        if isinstance(error, OtherRankError):
            return  # that rank keeps its step
        if learn.failed_between_batches or start["batch_idx"] != learn.batch_idx:
            return  # the error is from fetching or placing a batch, not from a step
        error.add_note(keep_step(learn, folder / FILE, start))


def keep_step(learn: LearnerProtocol, path: Path, start: dict[str, Any]) -> str:
    """Write the step. Return where it is, or why it could not be written; the original error propagates."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        learn.save_step(path, start)
    except Exception as error:  # noqa: BLE001 - reported in the note
        return f"the step could not be saved in {path}: {type(error).__name__}: {error}"
    return f"the step is saved in {path}: `learner replay` runs it again"
