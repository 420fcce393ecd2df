"""Leave a learner unchanged if a checkpoint cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from callbacks.core.modules import modules_beside
from learner.files import checkpoint_file
from learner.passes import positions
from learner.state import snapshots
from learner.state.protocol import FullLearner


class Undo:
    """A copy of everything that loading a checkpoint changes; the weights are copied to main memory.

    Args:
        learn: the learner.
    """

    def __init__(self, learn: FullLearner):
        self.learn = learn
        self.snapshot = snapshots.take(learn, on_cpu=True)
        modules = [learn.model, *modules_beside(learn).values()]
        self.gradients: list[tuple[Any, Any]] = [
            (each, each.grad) for module in modules for each in module.parameters()
        ]
        parts = snapshots.parts_with_generators(learn)
        self.drawn = [(part, positions.generator_states(part)) for _, part in parts]

    def restore(self) -> None:
        """Restore everything; callbacks only if they accept their own state."""
        try:
            snapshots.restore(self.learn, self.snapshot)
        except Exception:  # noqa: BLE001 - a callback refuses a state, which the original error reports
            snapshots.restore(self.learn, {**self.snapshot, "callbacks": {}})
        for part, states in self.drawn:
            positions.set_generator_states(part, states)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


@contextmanager
def unchanged_on_error(undo: Undo, path: str | Path) -> Iterator[None]:
    """Restore a learner if the contents of a file cannot be loaded into it.

    Raises:
        CheckpointError: something in the file cannot be loaded; raised from the original error.
    """
    try:
        yield
    except BaseException as error:
        undo.restore()
        if isinstance(error, checkpoint_file.CheckpointError) or not isinstance(error, Exception):
            raise
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise checkpoint_file.CheckpointError(
            f"{path} cannot be loaded into this learner, which is unchanged. "
            f"{type(error).__name__}: {error}{notes}"
        ) from error
