"""Measure how long epochs, passes and steps take, and estimate the time left."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from itertools import pairwise

import torch

from callbacks.core.contract import Callback, Direction, LearnerProtocol

MAX_STEPS = 10_000  # per pass: enough for a median, and each holds a device event


class Timer(Callback):
    """Measure the seconds of each epoch, pass and step, and estimate the seconds left.

    Results:

    - `epoch_seconds`: from the start of the epoch until callbacks report it.
    - `train_seconds`, `valid_seconds`: of the passes. They wait for an accelerator at the end of the pass, so
      that all of its work is included. Validations within an epoch are part of the training pass.
    - `step_seconds`: the median time from update to update, including data. The first update of a fit does
      not count, because memory is allocated, kernels are compiled and workers start. A CUDA device uses its
      own clock. At most the first 10 000 updates of a pass count. NaN if there are none.
    - `seconds_left`: the remaining epochs times the duration of the last one. This is measured from end to
      end if two epochs have ended, otherwise without the first update.

    In a resumed epoch, the time before the interruption counts too, except for `step_seconds`.
    """

    only_observes = True
    measures: Mapping[str, Direction | None] = {
        "epoch_seconds": "min",
        "train_seconds": "min",
        "valid_seconds": "min",
        "step_seconds": "min",
        "seconds_left": None,
    }
    state = ("elapsed",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._watches = {name: Stopwatch() for name in ("epoch", "train", "valid")}
        self._steps = Laps("cpu")
        self._epoch_ended: float | None = None
        self._first: float | None = None  # seconds of the first update of the fit

    @property
    def elapsed(self) -> dict[str, float]:
        """Seconds of the current epoch and passes so far; 0 outside of them."""
        return {name: watch.elapsed for name, watch in self._watches.items()}

    @elapsed.setter
    def elapsed(self, elapsed: dict[str, float]) -> None:
        for name, seconds in elapsed.items():
            self._watches[name].elapsed = seconds

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._epoch_ended = self._first = None

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._watches["epoch"].start()

    def before_train(self, learn: LearnerProtocol) -> None:
        self._steps = Laps(learn.device.type)
        self._watches["train"].start()
        if self._first is not None:
            self._steps.mark()

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._first is None:
            self._first = self._watches["train"].elapsed  # of the host; a device may still be working
        self._steps.mark()

    def after_train(self, learn: LearnerProtocol) -> None:
        wait_for(learn.device)
        learn.results["train_seconds"] = self._watches["train"].stop()
        learn.results["step_seconds"] = self._steps.median()

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._watches["valid"].start()

    def after_validate(self, learn: LearnerProtocol) -> None:
        wait_for(learn.device)
        learn.results[f"{learn.pass_name}_seconds"] = self._watches["valid"].stop()

    def after_epoch(self, learn: LearnerProtocol) -> None:
        now, before = time.perf_counter(), self._epoch_ended
        seconds = learn.results["epoch_seconds"] = self._watches["epoch"].stop()
        whole = seconds - (self._first or 0.0) if before is None else now - before
        learn.results["seconds_left"] = max(whole, 0.0) * (learn.n_epochs - learn.epoch - 1)
        self._epoch_ended = now

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        for watch in self._watches.values():
            watch.stop()
        self._steps = Laps("cpu")


class Stopwatch:
    """Seconds since it was started; 0 while it is stopped."""

    def __init__(self) -> None:
        self._begun: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return 0.0 if self._begun is None else time.perf_counter() - self._begun

    @elapsed.setter
    def elapsed(self, seconds: float) -> None:
        self._begun = time.perf_counter() - seconds if seconds else None

    def start(self) -> None:
        """Start at 0."""
        self._begun = time.perf_counter()

    def stop(self) -> float:
        """Return the seconds so far, and stop."""
        elapsed, self._begun = self.elapsed, None
        return elapsed


class Laps:
    """Times between marks, on the device's own clock if it has one, without waiting for it."""

    def __init__(self, device_type: str):
        self._device_type = device_type
        self._moments: list[float] = []
        self._events: list[torch.Event] = []

    def mark(self) -> None:
        """Record the current time."""
        if self._device_type == "cuda" and len(self._events) <= MAX_STEPS:
            event = torch.Event(self._device_type, enable_timing=True)
            event.record()
            self._events.append(event)
        elif self._device_type != "cuda" and len(self._moments) <= MAX_STEPS:
            self._moments.append(time.perf_counter())

    def median(self) -> float:
        """Median of the seconds between marks, NaN if there are none; waits for the device."""
        if self._events:
            self._events[-1].synchronize()  # an intended wait, at the end of a pass
        laps = [first.elapsed_time(second) / 1000 for first, second in pairwise(self._events)]
        laps += [second - first for first, second in pairwise(self._moments)]
        return statistics.median(laps) if laps else math.nan


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done all its work, in order to time it."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
