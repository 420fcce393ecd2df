"""Callbacks that raise an error, or send a signal."""

from __future__ import annotations

import os
import signal

from callbacks import Callback, Order, on


class Probe(Callback):
    """Raise an error in one event of one batch."""

    order = Order.REPORT

    def __init__(self, error: BaseException, batch_idx: int = 1):
        self.error, self.batch_idx = error, batch_idx

    def after_batch(self, learn):
        if learn.training and learn.batch_idx == self.batch_idx:
            raise self.error


def press(number: signal.Signals, event: str = "after_loss"):
    """A callback that sends this process a signal in the second batch."""

    @on(event)
    def send(learn):
        if learn.batch_idx == 1:
            os.kill(os.getpid(), number)

    return send
