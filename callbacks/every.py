"""Now and then: `every="10 steps"`, `"2 epochs"`, `"30 seconds"`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.contract import LearnerProtocol

SECONDS = {"second": 1, "minute": 60, "hour": 3600}
UNITS = ("step", "epoch", "sample", *SECONDS)


class Every:
    """Says when something that happens now and then is due.

    Ask it once in each `after_batch` and `after_epoch`:

        def after_batch(self, learn):
            if self.every.after_batch(learn):
                ...

    Args:
        interval: a number and a unit, as in `"1 step"`, `"200 steps"`, `"2 epochs"`, `"1e6 samples"`, `"10
            minutes"`. Steps are weight updates, samples are training items. Steps and samples are counted
            over all fits, epochs within one.

    Raises:
        ValueError: no such unit, or a number that is not positive (and whole, for steps, epochs and samples).
    """

    def __init__(self, interval: str | Every):
        self.interval = str(interval)
        self.number, self.unit = parse_interval(self.interval)
        self.last = 0.0  # of steps and samples: intervals told so far; of times: when the last was told
        self.begun = False

    def start(self, learn: LearnerProtocol) -> None:
        """Begin to count from here; call it in `before_fit`."""
        self.last = time.monotonic() if self.unit in SECONDS else self._passed(learn)
        self.begun = True

    def after_batch(self, learn: LearnerProtocol) -> bool:
        """Is it due after this batch? Never in validation."""
        if not learn.training or self.unit == "epoch":
            return False
        if not self.begun:
            self.start_before(learn)
        if self.unit in SECONDS:
            now = time.monotonic()
            due = now - self.last >= self.number * SECONDS[self.unit]
            self.last = now if due else self.last
            return due
        passed = self._passed(learn)
        due, self.last = passed > self.last, passed
        return due

    def after_epoch(self, learn: LearnerProtocol) -> bool:
        """Is it due after this epoch?"""
        return self.unit == "epoch" and (learn.epoch + 1) % int(self.number) == 0

    def start_before(self, learn: LearnerProtocol) -> None:
        """Begin to count as if asked before this batch: used where nobody called `start`."""
        self.start(learn)
        if self.unit not in SECONDS:
            count = learn.global_step - 1 if self.unit == "step" else learn.n_samples - learn.n_items
            self.last = count // self.number

    def _passed(self, learn: LearnerProtocol) -> float:
        count = learn.global_step if self.unit == "step" else learn.n_samples
        return count // self.number

    def __str__(self) -> str:
        return self.interval

    def __repr__(self) -> str:
        return f"Every({self.interval!r})"


def parse_interval(interval: Any) -> tuple[float, str]:
    """`"10 steps"` to (10.0, "step")."""
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]+?)s?\s*", interval, re.IGNORECASE)
    unit = match.group(2).lower() if match else None
    try:
        number = float(match.group(1)) if match else 0.0
    except ValueError:
        number = 0.0
    whole = unit in SECONDS or number == int(number)
    if unit not in UNITS or number <= 0 or not whole:
        raise ValueError(
            f"every={interval!r}: write a positive number and a unit, as in '10 steps', '2 epochs' or '30 "
            f"seconds'. "
            f"The units are: {', '.join(UNITS)}."
        )
    return number, unit
