"""Ctrl-C and SIGTERM: the first ends the batch and cleans up, a second one aborts at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def interruptible(learn: Any) -> Iterator[None]:
    """Handle the two signals during a fit, then put the handlers back and hand the signal on to them.

    Only in the main thread, and only where the handler is Python's or the system's own: a handler of the
    user's, or one that ignores the signal, stays.
    """
    kept: dict[int, Any] = {}
    received: list[int] = []
    if not learn.fitting:
        learn.interrupted = None
    process = os.getpid()

    def receive(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a loader's worker, forked during the fit: the parent ends it
            return
        if received:
            raise KeyboardInterrupt(f"{SIGNALS[signal.Signals(number)]} a second time")
        received.append(number)
        learn.interrupted = f"interrupted by {SIGNALS[signal.Signals(number)]}"
        print(
            f"\n{SIGNALS[signal.Signals(number)]}: ending this batch; again to abort at once", file=sys.stderr
        )

    if threading.current_thread() is threading.main_thread() and not learn.fitting:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler in (signal.default_int_handler, signal.SIG_DFL):
                kept[number] = handler
                signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if received:
        hand_on(received[0])


def hand_on(number: int) -> None:
    """End as the caller of the signal expects.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: it was SIGTERM; the exit code is 143.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
