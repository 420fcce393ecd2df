"""Save a run that an error in a callback ends, if its state is complete."""

from __future__ import annotations

from typing import Any

from callbacks.core.contract import Callback, Cancel, Order
from callbacks.core.registry import Hook, describe
from learner.state.protocol import FullLearner


def save_before_failing(
    learn: FullLearner, event: str, hooks: tuple[Hook, ...], error: BaseException
) -> None:
    """Fire the end of a batch or an epoch for the callbacks after the one that failed, `Checkpoint` last.

    It does so only if the state is complete: the callback that failed has no state, and runs in a phase that
    does not change what is trained. Validation batches are excluded, because they may be part of a validation
    in the middle of a training batch. `learn.error` is set, so `Checkpoint` saves even if it is not due.
    `hooks` are the hook that failed and the hooks after it, whose errors become notes on `error`.
    """
    failed: Any = hooks[0].__self__
    if isinstance(error, Exception) and not isinstance(error, Cancel) and is_whole(learn, event, failed):
        finish(learn, event, hooks[1:], error)


def is_whole(learn: FullLearner, event: str, failed: Callback) -> bool:
    """Is the state complete, although a callback has failed in this event?"""
    is_end = event == "after_epoch" or (event == "after_batch" and learn.training)
    return learn.fitting and is_end and failed.order >= Order.MEASURE and not failed.state_dict()


def finish(learn: FullLearner, event: str, hooks: tuple[Hook, ...], error: Exception) -> None:
    """Call the other hooks, if one of them saves the run."""
    owners: list[Any] = [hook.__self__ for hook in hooks]
    if any(owner.saves_checkpoints for owner in owners):
        learn.error = error
        for hook, owner in zip(hooks, owners, strict=True):
            try:
                hook(learn)
            except Exception as another:  # noqa: BLE001 - noted on the error that is raised
                words = f"{type(another).__name__}: {another}"
                error.add_note(f"then, in callback {describe(owner)}.{event}: {words}")
