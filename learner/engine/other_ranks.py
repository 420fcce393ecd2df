"""A fit in several processes: each shows where it is, and an error names the process that caused it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from callbacks.core.registry import describe
from callbacks.distributed.heartbeat import Heartbeat
from callbacks.distributed.rendezvous import leave
from learner.checks.process_checks import ranks_of
from learner.engine import composition
from learner.state.protocol import FullLearner


@contextmanager
def among_ranks(learn: FullLearner) -> Iterator[None]:
    """Show the other processes where this one is, within the block; leave their group after an error.

    Otherwise they would wait for this process as long as it runs.

    Raises:
        OtherRankError: another process has failed, hangs or was killed.
    """
    if learn.fitting or ranks_of(learn).size == 1:
        yield
        return
    where = partial(place_of, learn, threading.get_ident())
    with Heartbeat(where, lambda: learn.interrupted is not None) as heartbeat:
        try:
            yield
        except BaseException as error:
            found = heartbeat.explained(error)
            leave()
            if found is error:
                raise
            raise found from error


def place_of(learn: FullLearner, thread: int) -> str:
    """Where a fit is: the clock, the callback and its event, the operation, and the line of code."""
    frame = sys._current_frames().get(thread)
    line = "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    hook = operation = ""
    while frame is not None:
        if frame.f_globals.get("__name__") == composition.__name__:
            if frame.f_code.co_name == "_fire":
                found = frame.f_locals
                hook = f"in callback {describe(found['hook'].__self__)}.{found['event']}"
            elif frame.f_code.co_name == "_guarded":
                operation = operation or f"in {frame.f_locals['operation']}"
        frame = frame.f_back
    batch = "?" if learn.n_batches is None else learn.n_batches
    clock = f"at epoch {learn.epoch}/{learn.n_epochs}, batch {learn.batch_idx}/{batch}"
    parts = [clock, learn.loop.place.span or "between passes", hook or operation, line]
    return ", ".join(each for each in parts if each)
