"""Ctrl-C and SIGTERM: the fit ends after the batch; a second Ctrl-C, a second later or more, aborts it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from callbacks.core.output import print_line
from learner.state.protocol import FullLearner

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
#: Seconds in which another Ctrl-C counts as the same one: a terminal and a supervisor may both send it.
SAME = 1.0


@contextmanager
def interruptible(learn: FullLearner) -> Iterator[None]:
    """Handle the two signals during a fit; then restore the handlers and raise what the signal demands.

    It does so only in the main thread, and only for handlers of Python or the system: a user's handler stays,
    and so does one that ignores the signal.

    Raises:
        KeyboardInterrupt: Ctrl-C was received, here or by another process that trains with this one.
        SystemExit: SIGTERM was received, even after other signals; the exit code is 143.
    """
    is_outer = not learn.fitting
    if is_outer:
        learn.interrupted, learn.abortable = None, True
    received = Received(learn)
    try:
        if threading.current_thread() is threading.main_thread() and is_outer:
            received.install()
        yield
    finally:
        received.uninstall()
    if is_outer and learn.interrupted and not received.numbers:  # another process has received it
        received.numbers = [each for each in SIGNALS if learn.interrupted.endswith(SIGNALS[each])]
    if signal.SIGTERM in received.numbers:
        raise SystemExit(128 + signal.SIGTERM)
    if received.numbers:
        raise KeyboardInterrupt


class Received:
    """The signals received during a fit. The handler stores them and does nothing else.

    It prints nothing: a print may fail or block, and the run would be lost.
    """

    def __init__(self, learn: FullLearner):
        self.learn = learn
        self.process = os.getpid()
        self.replaced: dict[signal.Signals, Any] = {}
        self.numbers: list[int] = []
        self.pressed: float | None = None  # time of the first Ctrl-C

    def install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler in (signal.default_int_handler, signal.SIG_DFL):
                self.replaced[number] = handler
                signal.signal(number, self.handle)

    def uninstall(self) -> None:
        """Restore the handlers, that of Ctrl-C last, as it may raise anywhere from then on."""
        self.learn.abortable = False
        for number, handler in reversed(self.replaced.items()):
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            self.handle_in_child(number)
            return
        self.numbers.append(number)
        name = SIGNALS[signal.Signals(number)]
        self.learn.interrupted = self.learn.interrupted or f"interrupted by {name}"
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        self.pressed = now if self.pressed is None else self.pressed
        if now - self.pressed >= SAME and self.learn.abortable:
            raise KeyboardInterrupt("Ctrl-C a second time")

    def handle_in_child(self, number: int) -> None:
        """In a process that was forked during the fit: its parent ends it, by SIGTERM.

        A terminal sends Ctrl-C to both, and the parent handles it.
        """
        if number == signal.SIGTERM:
            signal.signal(number, self.replaced[signal.SIGTERM])
            os.kill(os.getpid(), number)


def end_batch(learn: FullLearner) -> None:
    """Stop the fit after this batch, and print that."""
    reason = learn.interrupted
    assert reason is not None
    if learn.stop_reason == reason or learn.ranks.wants_to_stop:
        return  # the processes agree on it in a later batch
    learn.stop(reason)
    hint = "; press again to abort at once" if reason.endswith(SIGNALS[signal.SIGINT]) else ""
    print_line(f"\n{reason}: ending after this batch{hint}", "stderr")


def end_span(learn: FullLearner) -> None:
    """Stop an interrupted fit at the end of an epoch or a pass, which a cancel may have ended."""
    if learn.interrupted and not learn.stop_reason:
        end_batch(learn)


def end_cancelled_batch(learn: FullLearner) -> None:
    """Stop an interrupted fit and save the run, as `after_batch` does not fire for a cancelled batch."""
    if learn.interrupted and not learn.stop_reason:
        end_batch(learn)
        for callback in learn.callbacks:
            if callback.saves_checkpoints:
                callback.after_batch(learn)
