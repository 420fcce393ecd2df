"""Plug-ins that act on gradients."""

from __future__ import annotations

from callbacks.contract import Callback, LearnerProtocol, Order


class ZeroGrad(Callback):
    """Do the operation `zero_grad`: drop the gradients after each update.

    Without it, or another doer, gradients would add up from step to step; a fit is refused then.
    """

    order = Order.GRADIENT

    def zero_grad(self, learn: LearnerProtocol) -> None:
        learn.optimizer.zero_grad()
