"""Intervals: `every="10 steps"`, `"2 epochs"`, `"30 seconds"`."""

from __future__ import annotations

import math
import re
from typing import Any

from callbacks.core.learner_protocol import LearnerProtocol

SECONDS = {"second": 1, "minute": 60, "hour": 3600}
UNITS = ("step", "epoch", "sample", *SECONDS)


class Every:
    """Decides when something that happens at intervals is due.

    Start it in `before_fit`, then call it once in each `after_batch` and `after_epoch`:

        def before_fit(self, learn):
            self.every.start(learn)

        def after_batch(self, learn):
            if self.every.after_batch(learn):
                ...

        def after_epoch(self, learn):
            if self.every.after_epoch(learn):
                ...

    It has no state to save: it uses the learner's counters, so the same steps are due in a fit that resumes
    from a snapshot. If the unit is steps, a batch that only accumulates gradients is never due.

    Args:
        interval: a number and a unit, as in `"1 step"`, `"200 steps"`, `"2 epochs"`, `"1e6 samples"`, `"10
            minutes"`. Steps are weight updates, samples are training items; both are counted over all fits,
            so `"100 steps"` means step 100, 200, ... Epochs are counted within a fit, and time from the last
            moment at which it was due.

    Raises:
        ValueError: the unit does not exist, or the number is not positive (and whole, for steps, epochs and
            samples).
    """

    def __init__(self, interval: str | Every):
        self.interval = str(interval)
        self.number, self.unit = parse_interval(interval)
        self._last: float | None = None  # intervals passed at the last call; for times, when it was last due

    def start(self, learn: LearnerProtocol) -> None:
        """Start counting from here; call it in `before_fit`."""
        self._last = learn.ranks.seconds() if self.unit in SECONDS else self._passed(learn)

    def after_batch(self, learn: LearnerProtocol) -> bool:
        """Is it due after this batch? Never in validation, and never if the unit is epochs."""
        if not learn.training or self.unit == "epoch":
            return False
        if self.unit in SECONDS:
            return self._is_time(learn.ranks.seconds())
        passed = self._passed(learn)
        if self._last is None or passed < self._last:  # it was not started, or the clock was restored
            self._last = self._passed_before(learn)
        due, self._last = passed > self._last, passed
        return due

    def was_due(self, learn: LearnerProtocol) -> bool:
        """Was it due after the last batch, if that had as many items as this one? False for times."""
        return self.unit in ("step", "sample") and self._passed(learn) > self._passed_before(learn)

    def after_train(self, learn: LearnerProtocol) -> bool:
        """Is it due after an update at the end of the pass? Only if the unit is steps or samples."""
        return self.unit in ("step", "sample") and self.after_batch(learn)

    def after_epoch(self, learn: LearnerProtocol) -> bool:
        """Is it due after this epoch? Never if the unit is another one."""
        return self.unit == "epoch" and (learn.epoch + 1) % int(self.number) == 0

    def _is_time(self, now: float) -> bool:
        if self._last is None:
            self._last = now
        due = now - self._last >= self.number * SECONDS[self.unit]
        self._last = now if due else self._last
        return due

    def _passed(self, learn: LearnerProtocol) -> float:
        """Whole intervals that have passed."""
        return (learn.global_step if self.unit == "step" else learn.n_samples) // self.number

    def _passed_before(self, learn: LearnerProtocol) -> float:
        """Whole intervals that had passed before this batch."""
        count = learn.global_step - 1 if self.unit == "step" else learn.n_samples - learn.ranks.n_items(learn)
        return max(count, 0) // self.number

    def __str__(self) -> str:
        return self.interval

    def __repr__(self) -> str:
        return f"Every({self.interval!r})"


def parse_interval(interval: Any, place: str | None = None) -> tuple[float, str]:
    """`"10 steps"` to (10.0, "step"); messages name the argument `place`, by default `every`."""
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]+?)s?\s*", str(interval), re.IGNORECASE)
    number, unit = (as_float(match.group(1)), match.group(2).lower()) if match else (0.0, "")
    whole = unit in SECONDS or number.is_integer()
    if unit not in UNITS or not 0 < number < math.inf or not whole:
        raise ValueError(
            f"{place or f'every={interval!r}'}: write a positive number and a "
            f"unit, as in '10 steps', '2 epochs' or '30 seconds'. The units are: {', '.join(UNITS)}."
        )
    return number, unit


def whole_interval(title: str, argument: str, interval: Any, *units: str) -> tuple[int, str]:
    """`"10 steps"` to (10, "step"), for an argument that takes only these units, none of them a time."""
    try:
        number, unit = parse_interval(interval)
    except ValueError:
        number, unit = 0.0, ""
    if unit not in units:
        *first, last = [f"{each}s" for each in units]
        words = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(
            f"{title}({argument}={interval!r}): {argument} must be a whole number of {words}, such as "
            f"'10 {units[0]}s'."
        )
    return int(number), unit


def as_float(text: str) -> float:
    """A number from its digits; 0 where there are two points."""
    try:
        return float(text)
    except ValueError:
        return 0.0
