"""Compute the gradients of the batch under way once more, for doers of `step` that ask for it."""

from __future__ import annotations

from typing import Any

from callbacks.core.contract import Order
from learner.state.protocol import FullLearner

KEPT = ("inputs", "targets", "preds", "loss_grad", "_loss", "_detached", "_value")


def again(learn: FullLearner) -> Any:
    """Forward, loss and backward at the weights as they are now, in place of the gradients that are there.

    Plug-ins of `PREPARE`, `TRANSFORM` and `GRADIENT`, which change what is computed, hear `after_pred` to
    `after_backward` again; the others have measured this batch already, and its predictions and loss are put
    back.

    Returns:
        The loss that was differentiated, detached.
    """
    kept = {name: getattr(learn, name) for name in KEPT}
    learn.optimizer.zero_grad()
    try:
        learn.loop.do["forward"](learn)
        tell(learn, "after_pred")
        learn.loop.do["compute_loss"](learn)
        learn.loop.note_loss(learn)
        tell(learn, "after_loss")
        tell(learn, "before_backward")
        learn.loop.do["backward"](learn)
        tell(learn, "after_backward")
        return learn.loss_grad.detach()
    finally:
        vars(learn).update(kept)


def tell(learn: FullLearner, event: str) -> None:
    """Fire an event for those that change something."""
    for hook in learn.callbacks.hooks[event]:
        if hook.__self__.order <= Order.GRADIENT:
            hook(learn)
