"""The search for a batch size: the largest that fits into memory, the quickest, and the curve between."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from callbacks.core.settings import check_count, is_number
from learner.checks.process_checks import n_processes
from learner.data.tensors import counted
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner
from learner.tools.batch_stock import Stock, n_items_of_loader
from learner.tools.batch_trials import Room, SizeTrial, Trials, as_bytes, shown_bytes
from learner.tools.cost import WIDTH, check_trainable, shown_time

FINENESS = 16  # the largest size is found to within a sixteenth
CLOSE = 0.97  # sizes whose items per second are this close to the highest are equal: timings vary by as much
UNKNOWN = 65536  # the last size to try if the number of items is not known


@dataclass(frozen=True, repr=False)
class BatchSizes:
    """The result of a search for a batch size; `print` shows a table.

    Attributes:
        trials: the sizes that were tried, from the smallest to the largest.
        room: how many bytes training may use; None if that is not known.
        margin: the share of `room` that `suggested` leaves free.
        held: bytes of weights, buffers and optimizer state, which every size needs.
        ended: why the search ended.
        device: the model's device.
    """

    trials: list[SizeTrial]
    room: int | None
    margin: float
    held: int
    ended: str
    device: str

    @property
    def fitting(self) -> list[SizeTrial]:
        """The trials that fit."""
        return [trial for trial in self.trials if trial.fits]

    @property
    def largest(self) -> int:
        """The largest size that was tried and fits."""
        return self.fitting[-1].size

    @property
    def suggested(self) -> int:
        """The largest size that leaves the margin free, by interpolation; from 16 on a multiple of eight.

        If no size does, the smallest one that was tried and fits.
        """
        fitting = self.fitting
        failed = any(trial.out_of_memory for trial in self.trials)
        most = fitting[-1].peak if self.room is None or failed else self.room
        target = (1 - self.margin) * most
        below = [trial for trial in fitting if trial.peak <= target]
        if not below:
            return fitting[0].size
        low = below[-1]
        above = [trial for trial in fitting if trial.size > low.size]
        if not above:
            return low.size
        share = (target - low.peak) / (above[0].peak - low.peak)
        size = low.size + int(share * (above[0].size - low.size))
        return max(size - size % 8, low.size) if size >= 16 else size

    @property
    def quickest(self) -> int:
        """The smallest size up to `suggested` that trains (almost) the most items per second."""
        there = [trial for trial in self.fitting if trial.size <= self.suggested]
        most = max(trial.items_per_second for trial in there)
        return next(trial.size for trial in there if trial.items_per_second >= CLOSE * most)

    def __str__(self) -> str:
        rows = [(f"batch size on {self.device}", "peak memory", "time per step", "items per second")]
        for trial in self.trials:
            if trial.fits:
                rate = f"{trial.items_per_second:,.0f}"
                rows.append((f"{trial.size:,}", shown_bytes(trial.peak), shown_time(trial.seconds), rate))
            else:
                rows.append((f"{trial.size:,}", "does not fit", "", ""))
        lines = ["{:>22}{:>18}{:>14}{:>18}".format(*row).rstrip() for row in rows]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        room = "an unknown limit" if self.room is None else shown_bytes(self.room)
        notes = [
            f"Largest that fits: {self.largest:,} ({self.ended}).",
            f"Suggested, with {self.margin:.0%} of {room} left free: {self.suggested:,}. "
            f"Quickest per item: {self.quickest:,}.",
            f"Weights, buffers and optimizer state take {shown_bytes(self.held)} of the memory.",
        ]
        failed = [trial for trial in self.trials if not trial.fits]
        notes += [f"{trial.size:,}: {trial.why_not}" for trial in failed[:1]]
        return [line for note in notes for line in textwrap.wrap(note, WIDTH)]

    def __repr__(self) -> str:
        return (
            f"BatchSizes(suggested={self.suggested}, largest={self.largest}, quickest={self.quickest}; "
            f"{len(self.trials)} sizes tried)"
        )


@suggest_keywords
def find_batch_size(
    learn: FullLearner,
    *,
    limit: str | int | None = None,
    margin: float = 0.1,
    start: int = 2,
    up_to: int | None = None,
    n_steps: int = 5,
    max_seconds: float | None = 120.0,
    make_batch: Callable[[int], Any] | None = None,
) -> BatchSizes:
    """Try batch sizes in a sandbox, doubling and then halving, and measure the memory and time of each.

    All callbacks run except those that can write files or send numbers. If the last two sizes predict that
    the next one needs more than `limit`, it is not tried, so that a CPU machine does not run out of memory.
    Batches consist of rows of a real batch, or of collated items of the data set. On a CPU only the bytes of
    tensors count; the temporary memory of kernels, and the sandbox's copy of weights and optimizer state, are
    not included. This is not tested on an accelerator yet.

    Args:
        learn: the learner.
        limit: the bytes that training may use, without the data set, such as `"4 GB"`; by default the free
            memory.
        margin: the share of the limit that the suggested size leaves free, from 0 to below 1.
        start: the first size.
        up_to: the last size; by default the number of training items.
        n_steps: the number of timed steps of each size.
        max_seconds: start no further trial after this time; None to search until the largest size is found.
        make_batch: a function that returns a batch of a number of items, if the batches of the loader cannot
            be made larger.

    Returns:
        The trials, `.suggested`, `.largest` and `.quickest`; `print` shows a table.

    Raises:
        TypeError, ValueError: a setting cannot be used, or no batch of another size can be made.
        RuntimeError: not even one item fits, or this is one of several processes.
    """
    check_settings(limit, margin, start, up_to, n_steps, max_seconds, make_batch)
    check_trainable(learn, "find_batch_size")
    check_alone(n_processes())
    stock = Stock(learn, make_batch)
    trials = Trials(learn, stock, limit, n_steps)
    n_items = n_items_of_loader(learn.data.train, stock.n_items) or UNKNOWN
    up_to = up_to or n_items
    search = Search(trials, min(start, up_to), up_to, max_seconds)
    ended = search.run()
    if not search.largest:
        refuse(trials.tried[-1], trials.room)
    tried = sorted(trials.tried, key=lambda trial: trial.size)
    return BatchSizes(tried, trials.room.bytes, margin, trials.held, ended, str(trials.device))


def check_settings(
    limit: Any, margin: Any, start: Any, up_to: Any, n_steps: Any, max_seconds: Any, make_batch: Any
) -> None:
    """Refuse invalid arguments of `find_batch_size`."""
    if limit is not None:
        as_bytes(limit)
    if not is_number(margin) or not 0 <= margin < 1:
        raise ValueError(f"find_batch_size(margin={margin!r}): margin must be a share from 0 to below 1.")
    for name, value in (("start", start), ("n_steps", n_steps), ("up_to", 1 if up_to is None else up_to)):
        check_count("find_batch_size", name, value, 1)
    if up_to is not None and up_to < start:
        raise ValueError(f"find_batch_size(start={start}, up_to={up_to}): start must be at most up_to.")
    if max_seconds is not None and (not is_number(max_seconds) or max_seconds <= 0):
        raise ValueError(
            f"find_batch_size(max_seconds={max_seconds!r}): max_seconds must be a number above 0, or None."
        )
    if make_batch is not None and not callable(make_batch):
        raise TypeError(
            f"find_batch_size(make_batch={make_batch!r}): pass a function that returns a batch of n items, "
            "as lambda n: (inputs[:n], targets[:n])."
        )


def check_alone(n_processes: int) -> None:
    """Refuse one of several processes: the others would wait for one whose memory is full."""
    if n_processes > 1:
        raise RuntimeError(
            f"find_batch_size() was called in one of {n_processes} processes. Call it in a script of one "
            "process, without torchrun. The processes share each batch, so multiply the result by "
            f"{n_processes}, except with Distributed(batch='each')."
        )


class Search:
    """Doubles the size until one does not fit, then bisects."""

    def __init__(self, trials: Trials, start: int, up_to: int, max_seconds: float | None):
        self.trials, self.start, self.up_to, self.max_seconds = trials, start, up_to, max_seconds or math.inf
        self.largest = 0  # that fits
        self.too_large: int | None = None

    def run(self) -> str:
        """Search; returns why it ended."""
        start = time.perf_counter()
        while (size := self._next()) is not None:
            if self.largest and time.perf_counter() - start > self.max_seconds:
                return f"max_seconds={self.max_seconds:g} have passed"
            if self.trials.attempt(size).fits:
                self.largest = size
            else:
                self.too_large = size
        return "the largest size to try" if self.too_large is None else f"{self.too_large:,} does not"

    def _next(self) -> int | None:
        low, high = self.largest, self.too_large
        if high is None:
            return None if low == self.up_to else min(2 * low or self.start, self.up_to)
        if not low:
            return high // 2 or None
        return None if high - low <= max(1, low // FINENESS) else (low + high) // 2


def refuse(trial: SizeTrial, room: Room) -> None:
    """Raise the error that not even the smallest batch fits, with hints."""
    limit = f" into {shown_bytes(room.bytes)} ({room.origin})" if room.bytes is not None else ""
    raise RuntimeError(
        f"find_batch_size: not even a batch of {counted(trial.size, 'item', 'items')} fits{limit}: "
        f"{trial.why_not} What helps: recompute activations instead of keeping them "
        "(ActivationCheckpointing), half precision (MixedPrecision('bf16')), an optimizer with less state "
        "(SGD, or one in eight bits), shorter items, a smaller model. GradientAccumulation replaces large "
        "batches, but one item has to fit. docs/large_models.md shows each."
    )
