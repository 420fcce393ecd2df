"""Add notes to an error (PEP 678) that show where in the fit it was raised."""

from __future__ import annotations

import time
import traceback
from types import FrameType

import torch

from callbacks import Callback, Cancel
from callbacks.core.registry import describe
from learner.checks.advice import batch_note
from learner.data.leaks import fetching_note, module_of
from learner.data.tensors import describe as describe_batch
from learner.messages.layers import describe_layer
from learner.messages.missing_attributes import slip_note
from learner.state import membership
from learner.state.pass_modes import Modes, set_modes
from learner.state.protocol import FullLearner

GRACE = 1.0  # seconds; the signal for the death of a child arrives within milliseconds and ends a sleep

LEVELS = {
    "CancelFit": "a fit",
    "CancelEpoch": "an epoch",
    "CancelTrain": "a training pass",
    "CancelValidate": "a validation pass",
    "CancelBatch": "a batch, before after_batch",
    "CancelStep": "before_step",
}


def with_place(error: BaseException, learn: FullLearner) -> BaseException:
    """The error with notes: callback and event, epoch and batch, failing layer or sample.

    Returns:
        The same error; for a cancel that was raised where there is nothing to cancel, a `RuntimeError`.
    """
    try:
        return placed(error, learn)
    except RuntimeError as death:  # raised at whatever line runs when the system reports a worker's death
        if not str(death).startswith("DataLoader worker"):
            raise
        return placed(death, learn)


def placed(error: BaseException, learn: FullLearner) -> BaseException:
    """The error with its notes, as `with_place` returns it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    hook = learn.loop.place.hook
    if isinstance(error, Cancel):
        hook = error.raised_by and f"{describe(error.raised_by[0])}.{error.raised_by[1]}"
        error = stray(error, hook or "the code")
    notes = [
        hook and f"in callback {hook}",
        slip_note(error, learn),
        describe_layer(frames, learn.model),
        batch_note(error, frames, learn),
        fetching_note(frames),
        memory_note(error, learn),
        worker_note(error, frames),
    ]
    for note in [*notes, clock_note(learn)]:
        if note and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        traceback.clear_frames(error.__traceback__)  # they hold the activations that filled the memory
    return error


def stray(cancel: Cancel, owner: str) -> RuntimeError:
    """An error for a cancel that was raised where there is nothing to cancel."""
    title = type(cancel).__name__
    span = LEVELS.get(title, "its span")
    return RuntimeError(f"{title} was raised by {owner}, where it cancels nothing: raise it in {span}.")


def end(learn: FullLearner, modes: Modes) -> None:
    """Restore the modes of the modules, then call every `cleanup_fit`; only then has the fit ended."""
    set_modes(modes)
    try:
        clean_up(learn)
    finally:
        learn.fitting = False


def clean_up(learn: FullLearner) -> None:
    """Call `cleanup_fit` of the callbacks whose fit has started, last first, even if some raise errors.

    After an error the gradients are dropped.
    """
    failed: BaseException | None = learn.error
    has_started = bool(learn.loop.started)
    first: BaseException | None = None
    for callback in membership.last_first(learn):
        caught = cleanup_error(callback, learn)
        if caught is None:
            continue
        hook = f"{describe(callback)}.cleanup_fit"
        error = stray(caught, hook) if isinstance(caught, Cancel) else caught
        shown = f"in callback {hook}: {type(error).__name__}: {error}"
        if failed is not None or first is not None:
            (failed or first).add_note(f"then, {shown}")  # type: ignore[union-attr]
        else:
            error.add_note(shown)
            first = error
    if failed is not None and has_started:
        learn.model.zero_grad()
    if first is not None:
        learn.error = first
        raise first


def cleanup_error(callback: Callback, learn: FullLearner) -> BaseException | None:
    """Call one `cleanup_fit` and return what it raises, as the others must be called too.

    A second Ctrl-C may abort the `cleanup_fit` itself, but nothing around it.
    """
    try:
        learn.abortable = True
        callback.cleanup_fit(learn)
    except BaseException as error:  # noqa: BLE001 - it is raised or noted once all have been called
        learn.abortable = False
        return error
    learn.abortable = False
    return None


def clock_note(learn: FullLearner) -> str:
    """The epoch, the batch and the pass in which the error was raised."""
    at, total = learn.loop.place, "?" if learn.n_batches is None else learn.n_batches
    parts = [f"at epoch {learn.epoch}/{learn.n_epochs}"]
    if at.in_batch or (at.span == "predict" and (at.hook or at.operations)):
        parts.append(f"batch {learn.batch_idx}/{total}")
    elif at.fetching is not None:
        parts.append(f"fetching batch {at.fetching}/{total}")
    if at.span is not None:
        parts.append(at.span)
    return ", ".join([*parts, f"global step {learn.global_step}"])


def worker_note(error: BaseException, frames: list[FrameType]) -> str | None:
    """A hint for a loader's worker that was killed from outside."""
    words = str(error) if isinstance(error, RuntimeError) else ""
    if isinstance(error, (EOFError, OSError)) and any(
        module_of(frame) == "torch.utils.data.dataloader" for frame in frames
    ):
        words = death_of_a_worker()  # it died while it was sending a batch
    if not words.startswith("DataLoader worker"):
        return None
    shown = "" if words == str(error) else f" ({words})"
    return (
        f"a loader worker died, perhaps out of memory{shown}: use fewer workers, or a smaller batch_size. "
        'If workers are spawned, a script must train below `if __name__ == "__main__":`.'
    )


def death_of_a_worker() -> str:
    """Torch's message on the death, raised by a signal handler at any time: wait for it here."""
    try:
        time.sleep(GRACE)
    except RuntimeError as death:
        return str(death)
    return ""


def memory_note(error: BaseException, learn: FullLearner) -> str | None:
    """The batch that did not fit in memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"the batch was {describe_batch(learn.batch)}: try a smaller batch_size"
    return None
