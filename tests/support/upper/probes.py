"""A callback that fails at one event."""

from __future__ import annotations

from callbacks import Callback, Order


class Probe(Callback):
    """Raise an error in one event of one batch."""

    order = Order.REPORT

    def __init__(self, error: BaseException, batch_idx: int = 1):
        self.error, self.batch_idx = error, batch_idx

    def after_batch(self, learn):
        if learn.training and learn.batch_idx == self.batch_idx:
            raise self.error
