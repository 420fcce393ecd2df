"""Where a schedule starts and ends: the fit, its budgets, and the windows of `When`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.every import parse_interval
from callbacks.core.when import windows_of
from callbacks.schedule.budgets import budget_ends
from callbacks.step.accumulation import GradientAccumulation

Clock = dict[str, int]
Point = tuple[float, str]  # a number, and its unit


class Plan(NamedTuple):
    """Where a schedule starts and ends in a future fit, in training batches."""

    begin: int
    end: int
    end_of_fit: int


class Span:
    """The part of a fit in which a schedule runs; made at its first training batch.

    It ends at `until`; without that at the fit's end, or where a budget of steps, samples or epochs ends,
    whichever comes first. Its steps are updates of the weights, which follow `n_together` batches.
    """

    def __init__(self, callback: Callback, learn: LearnerProtocol, n_together: int = 1):
        self.n_together = n_together
        windows = windows_of(callback)
        self.starts_late = any(each.start for each in windows)
        untils = [parse_interval(each.until) for each in windows if each.until]
        self.ends: list[Point] = untils or [(learn.n_epochs, "epoch"), *budget_ends(learn)]
        self.is_whole_fit = not windows and len(self.ends) == 1
        self.counted = [end for end in self.ends if end[1] != "epoch"]  # known without the length of an epoch

    def progress(self, learn: LearnerProtocol, begun: Clock, n_batches: int | None) -> tuple[float, int]:
        """Progress, 0 at the first batch and 1 at the last, and the number of steps of the span.

        `begun` is the `clock` at the span's first batch. Without `n_batches` only `counted` ends are used.
        """
        now = self.clock(learn, n_batches or 1)
        ends = self.counted if n_batches is None else self.ends
        return max(self._share_done(learn, end, now, begun, n_batches or 1) for end in ends)

    def _share_done(
        self, learn: LearnerProtocol, end: Point, now: Clock, begun: Clock, n_batches: int
    ) -> tuple[float, int]:
        """Progress from `begun` to one end, and the number of steps between them."""
        number, unit = end
        length = (number * self.n_steps(n_batches) if unit == "epoch" else number) - begun[unit]
        # the last step starts one before the end
        last = learn.ranks.n_items(learn) * self.n_together if unit == "sample" else 1
        share = (now[unit] - begun[unit]) / max(length - last, 1)
        return min(share, 1.0), max(round(length / max(last, 1)), 1)

    def n_steps(self, n_batches: int) -> int:
        """The number of steps in an epoch."""
        return math.ceil(n_batches / self.n_together)

    def clock(self, learn: LearnerProtocol, n_batches: int) -> Clock:
        """The position in the fit, by unit; epochs are counted in steps."""
        step = min(learn.batch_idx, n_batches - 1) // self.n_together
        epoch = learn.epoch * self.n_steps(n_batches) + step
        return {"epoch": epoch, "step": learn.global_step, "sample": learn.n_samples}


def batches_per_update(learn: LearnerProtocol) -> int:
    """The number of batches that an update follows, as this batch shows it; 1 if that is not known."""
    n_items = learn.ranks.n_items(learn)
    are_uneven = getattr(learn.data.train, "batch_size", n_items) is None  # by a batch sampler
    return batches_together(learn.callbacks, None if are_uneven else max(n_items, 1))


def batches_together(callbacks: Iterable[Callback], n_items: int | None) -> int:
    """The number of batches of `n_items` that an update follows; 1 if that is not known."""
    for each in callbacks:
        if isinstance(each, GradientAccumulation) and not windows_of(each):
            return each.n_batches or (math.ceil((each.n_samples or 1) / n_items) if n_items else 1)
    return 1


def planned(
    callback: Callback, learn: LearnerProtocol, n_epochs: int, n_batches: int, *, one_step_each: bool
) -> Plan | None:
    """The batches of a future fit between which a schedule runs; None if they are not known in advance."""
    windows = windows_of(callback)
    begun = {"step": learn.global_step, "sample": learn.n_samples}
    known = {"epoch": n_batches} | ({"step": 1} if one_step_each else {})
    starts = [parse_interval(each.start) for each in windows if each.start]
    untils = [parse_interval(each.until) for each in windows if each.until]
    budgets = budget_ends(learn, begun)
    if any(unit not in known for _, unit in (*starts, *untils, *budgets)) or any(w.every for w in windows):
        return None

    def batches(points: list[Point]) -> list[int]:
        return [max(0, round((number - begun.get(unit, 0)) * known[unit])) for number, unit in points]

    first = max(batches(starts), default=0)
    end_of_fit = min([n_epochs * n_batches, *batches(budgets)])
    return Plan(first, max(first, min(batches(untils) or [end_of_fit])), end_of_fit)
