"""`learn.again()`: compute the gradients of the current batch again, for steps that need it."""

from __future__ import annotations

from typing import Any

from callbacks.core.contract import Order
from learner.state.attributes import BATCH_STATE
from learner.state.protocol import FullLearner


def again(learn: FullLearner) -> Any:
    """Run forward, loss and backward at the current weights, and replace the gradients.

    Callbacks in the phases `PREPARE`, `TRANSFORM` and `GRADIENT`, which change what is computed, are called
    again, from `after_pred` to `after_backward`. The others are not, as they have measured this batch
    already; its predictions and its loss are restored.

    Returns:
        The loss that was differentiated, detached.
    """
    kept = {name: getattr(learn, name) for name in BATCH_STATE}
    learn.optimizer.zero_grad()
    try:
        learn.loop.do["forward"](learn)
        fire(learn, "after_pred")
        learn.loop.do["compute_loss"](learn)
        learn.loop.note_loss(learn)
        fire(learn, "after_loss")
        fire(learn, "before_backward")
        learn.loop.do["backward"](learn)
        fire(learn, "after_backward")
        return learn.loss_grad.detach()
    finally:
        vars(learn).update(kept)


def fire(learn: FullLearner, event: str) -> None:
    """Fire an event for the callbacks that change what is computed."""
    for hook in learn.callbacks.hooks[event]:
        if hook.__self__.order <= Order.GRADIENT:
            hook(learn)
