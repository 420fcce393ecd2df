"""Keep the step in which an error came up, so that it can be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.core import draws
from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.settings import as_path

FILE = "blackbox.pt"


class BlackBox(Callback):
    """Write the step in which an error came up to a file, to run it again with `learner replay`.

    The file holds the batch, weights, buffers, plug-ins' and optimizer's state, the random states with which
    the step began, the clock and the error. It is written for an error between `before_batch` and
    `after_batch` of training, a bad loss of `StopOnNaN` among them, and takes the place of the one before.
    The error goes on as it is, with a note that says where the file is, or why there is none.

    A step costs some microseconds, for torch's random state. Those of Python and NumPy cost more: they are
    taken in the first steps of a pass, and in the others only if steps were seen to draw from them.

    Args:
        folder: where `blackbox.pt` is written, when there is something to write.
    """

    order = Order.PREPARE  # before those who draw random numbers for the batch
    N_WATCHED = 10  # steps of a pass; what draws at random in a step mostly draws in each

    def __init__(self, folder: str | Path = "blackbox", *, name: str | None = None):
        super().__init__(name=name)
        self.folder = as_path("BlackBox", "folder", folder, "the name of a folder, such as 'blackbox'")
        self._begin_fit()

    def _begin_fit(self) -> None:
        self._folder: Path | None = None
        self._begin: dict[str, Any] | None = None  # of the step under way
        self._n_watched = 0
        self._taken = draws.GENERATORS
        self._drawn: set[str] = set()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._begin_fit()
        self._folder = self.folder.absolute()  # should the fit change the working directory

    def before_train(self, learn: LearnerProtocol) -> None:
        self._begin, self._n_watched, self._taken = None, 0, draws.GENERATORS

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._begin = {
                "random": draws.take(self._taken),
                "inputs": learn.inputs,
                "targets": learn.targets,
                "global_step": learn.global_step,
                "batch_idx": learn.batch_idx,
            }

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and self._begin and self._n_watched < self.N_WATCHED:
            self._watch(self._begin["random"])

    def _watch(self, before: dict[str, Any]) -> None:
        """See whether this step has drawn from the generators that are dear to take."""
        now = draws.take(set(before) - set(draws.CHEAP))
        self._drawn |= {name for name, state in now.items() if draws.differ(name, before[name], state)}
        self._n_watched += 1
        if self._n_watched == self.N_WATCHED:
            self._taken = (*draws.CHEAP, *sorted(self._drawn))

    def after_train(self, learn: LearnerProtocol) -> None:
        self._begin = None

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._begin = None  # of a pass that a cancel has ended

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._begin = None

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        begin, folder, error = self._begin, self._folder, learn.error
        self._begin_fit()
        if begin is None or folder is None or not isinstance(error, Exception):
            return
        if learn.failed_between_batches or begin["batch_idx"] != learn.batch_idx:
            return  # the batch was being fetched or placed: no step was under way
        error.add_note(keep_step(learn, folder / FILE, begin))


def keep_step(learn: Any, path: Path, begin: dict[str, Any]) -> str:
    """Write the step, and say where it is; or why it is not, as the error under way is what counts."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        learn.save_step(path, begin)
    except Exception as error:  # noqa: BLE001 - told in the note
        return f"the step could not be kept in {path}: {type(error).__name__}: {error}"
    return f"the step is kept in {path}: `learner replay` runs it again"
