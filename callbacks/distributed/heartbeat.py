"""Where each process is, in the store that all reach, so that errors name the process that caused them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from callbacks.distributed.rendezvous import OtherRankError, OtherRankOSError, read, stores

BEAT = 1.0  # seconds between two heartbeats
GRACE = 2.5  # seconds in which the others report an error, or show with a heartbeat that they are alive
SAME = 1.0  # seconds in which the first process raises the same error, if all do
SHOWN = 64  # processes whose place a message shows
SAME_AS_FIRST = "rank 0 has raised the same error"  # a note

#: The heartbeat of the current fit; empty outside a fit in several processes.
running: list[Heartbeat] = []
fits = count()


class Heartbeat:
    """Writes the place of this process in the fit to the store, each second, from a separate thread.

    A training step does nothing for it: the thread looks at the main thread's stack.

    Args:
        where: returns the place of the main thread.
        is_ending: was this process asked to end? Then it does not wait for reports of the others.
    """

    def __init__(self, where: Callable[[], str], is_ending: Callable[[], bool]):
        self.rank, self.size, self.where = dist.get_rank(), dist.get_world_size(), where
        self.is_ending = is_ending
        store: Any = dist.distributed_c10d._get_default_store()
        # calls of one connection wait for each other, and the main thread may wait for a message
        self.store = stores.PrefixStore(f"heartbeat/{next(fits)}", store.clone())
        self._n, self._place, self._since = 0, "", time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._known: BaseException | None = None  # the last error

    def __enter__(self) -> Heartbeat:
        running.append(self)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        running.remove(self)

    def _run(self) -> None:
        with suppress(RuntimeError):  # the process that holds the store has ended
            while not self._end.wait(min(BEAT, BEAT / 20 * 2**self._n)):  # a fit may be short
                self._beat()

    def _beat(self) -> None:
        place, now = self.where(), time.monotonic()
        if place != self._place:
            self._place, self._since = place, now
        self._n += 1
        self.store.set(f"place/{self.rank}", json.dumps([self._n, place, round(now - self._since)]))

    def explained(self, error: BaseException) -> BaseException:
        """The error to raise: this one, for the others to read, or one that names the rank that caused it."""
        if error is self._known:
            return error
        self._known = error
        with suppress(RuntimeError):
            if not is_consequence(error):
                self._report(error)
            else:
                self._known = self._caused(error)
                self._known.is_ended = self.is_ending()
        return self._known

    def _report(self, error: BaseException) -> None:
        """Write an error of this process to the store."""
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            get_error_handler().record_exception(error)  # `torchrun` repeats it at its end
        lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        self.store.set(f"error/{self.rank}", lines[0])
        self.store.compare_set("cause", "", json.dumps([self.rank, "\n  ".join(lines)]))
        end = time.monotonic() + SAME
        while self.rank and time.monotonic() < end:
            if read(self.store, "error/0") == lines[0]:
                error.add_note(SAME_AS_FIRST)
                return
            time.sleep(BEAT / 20)

    def _caused(self, error: BaseException) -> OtherRankError:
        """An error that names the rank that caused this one, or that shows where every rank was."""
        before, end = self._places(), time.monotonic() + GRACE
        while time.monotonic() < end and not read(self.store, "report"):
            cause = read(self.store, "cause")
            if cause:
                rank, words = json.loads(cause)
                self._sleep(SAME)  # it prints its traceback first
                kind = OtherRankOSError if isinstance(error, OSError) else OtherRankError
                return kind(f"rank {rank} failed, so rank {self.rank} ends too:\n  {words}")
            if self.is_ending():
                break
            self._sleep(BEAT / 20)
        return error if isinstance(error, OtherRankError) else self._unanswered(error, before)

    def _unanswered(self, error: BaseException, before: list[list[Any]]) -> OtherRankError:
        """An error that shows where every rank was."""
        if self.is_ending():  # a launcher has noticed that a process ended, and restarts all of them
            places = "\n  ".join(f"rank {number} {each[1]}" for number, each in enumerate(before))
            return OtherRankError(
                f"rank {self.rank} was interrupted while it waited for the other ranks: "
                f"{message_of(error)}. The last positions of the ranks:\n  {places}"
            )
        report = self._report_of_all(error, before)
        # the report of the first rank is kept, as it saw most of the others alive
        report = self.store.compare_set("report", "", report).decode()
        return OtherRankError(
            f"rank {self.rank} waited for the other ranks, but they did not answer: "
            f"{message_of(error)}. {report}"
        )

    def _sleep(self, seconds: float) -> None:
        """Wait, but not if this process is to end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_ending():
            time.sleep(min(seconds, BEAT / 20))

    def _report_of_all(self, error: BaseException, before: list[list[Any]]) -> str:
        """Where every rank was."""
        lines = [line_of(*each) for each in zip(range(self.size), before, self._places(), strict=False)]
        own = ", ".join(getattr(error, "__notes__", ()))
        lines[self.rank : self.rank + 1] = [f"rank {self.rank}, which waited: {own}"]
        return "The ranks:\n  " + "\n  ".join(lines)

    def _places(self) -> list[list[Any]]:
        """The last heartbeats of the processes."""
        found = (read(self.store, f"place/{rank}") for rank in range(min(self.size, SHOWN)))
        return [json.loads(each or '[0, "", 0]') for each in found]


def line_of(rank: int, before: list[Any], now: list[Any]) -> str:
    """The last known place of another process."""
    _, place, seconds = now
    if before[0] == now[0]:
        return f"rank {rank} does not answer: it was killed, or its machine is lost. It was last seen {place}"
    return f"rank {rank} is alive; for {seconds} s it has been {place}"


def explained(error: BaseException) -> BaseException:
    """The error to raise for one in a fit; see `Heartbeat.explained`."""
    return running[-1].explained(error) if running else error


def message_of(error: BaseException) -> str:
    """The message of torch, without the place in its sources and its advice."""
    return str(error).rpartition("] ")[2].splitlines()[0].split(". This")[0][:200]


def is_consequence(error: BaseException) -> bool:
    """Was the error raised because another process has ended, or did not answer in time?"""
    words = ("gloo/", "NCCL", "ncclRemote")
    return isinstance(error, (OtherRankError, dist.DistError)) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    )
