"""The cost of a training step: per operation, per callback, for data, and compared with a plain loop."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from callbacks.core.contract import OPERATIONS
from callbacks.core.settings import check_count
from callbacks.core.warning import Renamed
from callbacks.history.tables import html_table
from learner.checks.process_checks import ranks_of
from learner.state.protocol import FullLearner
from learner.tools.cost_runs import Runs, run, run_bare, run_reads, why_no_bare_loop, why_not
from learner.tools.data_remedies import remedy_for
from learner.tools.meter import BLOCK, Meter

N_ROUNDS = 2  # the loops take turns, so that other work on the machine affects all of them
TOO_LONG = 0.2  # share of a step spent waiting for data
WIDTH = 79  # of the table


@dataclass(frozen=True)
class CallbackCost:
    """The seconds of a callback: its batch events per step, and its other events per epoch."""

    step: float
    epoch: float


@dataclass(frozen=True, repr=False)
class StepCost:
    """The cost of a training step (one batch); `print` shows a table. All times are in seconds.

    Attributes:
        step: a whole step, without clocks inside it.
        data_wait: the part of the step in which the loop waited for the loader; a mean, because workers
            deliver in bursts. It does not include the first batch of a pass, unless a pass has only one.
        first_batch: the wait for the first batch of a pass.
        operations: the time of each operation. On an accelerator this is the host's time, which runs ahead.
        callbacks: the time of each callback by its name, without operations that it implements.
        bare: a step of a plain loop over the same batches, with the same model, loss and optimizer, without
            the data wait; None if there is no such loop.
        why_not_bare: the reason why there is no such loop.
        device_waits: how often per step an operation or callback reads a number from the device and so waits
            for it; empty on a CPU.
        not_measured: callbacks that were left out, each with the reason.
        n_steps: the number of measured steps.
        device: the device of the model.
        remedy: what to do if the loop waits for data in more than a fifth of a step, otherwise None.
    """

    step: float
    data_wait: float
    first_batch: float
    operations: dict[str, float]
    callbacks: dict[str, CallbackCost]
    bare: float | None
    why_not_bare: str | None
    device_waits: dict[str, float]
    not_measured: dict[str, str]
    n_steps: int
    device: str
    remedy: str | None

    plugins = Renamed("callbacks")  # vocabulary: quoted

    @property
    def over_bare(self) -> float | None:
        """Our step relative to the plain loop's, both without the data wait; None without a plain loop."""
        return (self.step - self.data_wait) / self.bare if self.bare else None

    @property
    def loop(self) -> float:
        """The rest of a step: the loop itself."""
        parts = [self.data_wait, *self.operations.values(), *(each.step for each in self.callbacks.values())]
        return max(self.step - sum(parts), 0.0)

    def __repr__(self) -> str:
        parts, callbacks, ends = self._rows()
        named = [("callbacks", "", "", "", ""), *((f"  {name}", *cells) for name, *cells in callbacks)]
        rows = [self._head(), *parts, *(named if callbacks else []), *ends]
        lines = ["{:30.30}{:>12}{:>8}{:>13}{:>8}".format(*row).rstrip() for row in rows]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        rows = [row for rows in self._rows() for row in rows]
        table = html_table(rows, self._head(), n_text=1)
        return f"{table}<p>{html.escape(' '.join(self._notes()))}</p>"

    def _head(self) -> list[str]:
        return [f"a training step on {self.device}", "time", "share", "an epoch", "waits"]

    def _rows(self) -> list[list[list[str]]]:
        """The cells of the loop's parts, of the callbacks that take time, and of the sums."""
        parts = {"data wait": self.data_wait, **self.operations}
        ends = {"the loop itself": self.loop, "in all": self.step}
        callbacks = {name: each for name, each in self.callbacks.items() if each.step or each.epoch}
        return [
            [self._cells(name, seconds) for name, seconds in parts.items()],
            [self._cells(name, each.step, each.epoch) for name, each in callbacks.items()],
            [self._cells(name, seconds) for name, seconds in ends.items()],
        ]

    def _cells(self, title: str, seconds: float, epoch: float | None = None) -> list[str]:
        share = f"{seconds / self.step:.0%}" if self.step else ""
        n_waits = self.device_waits.get(title, 0.0)
        shown = [shown_time(seconds), share, "" if epoch is None else shown_time(epoch)]
        return [title, *shown, f"{n_waits:.3g}" if n_waits else ""]

    def _notes(self) -> list[str]:
        notes = [
            f"Medians of {self.n_steps} steps. The first batch of a pass: {shown_time(self.first_batch)}."
        ]
        if self.bare:
            notes.append(
                f"A bare loop's step: {shown_time(self.bare)}. Ours, without the data wait: "
                f"{self.over_bare:.2f} times that."
            )
        else:
            notes.append(f"No bare loop to compare with: {self.why_not_bare}.")
        if self.device_waits:
            notes.append("Waits: how often per step the host waits to read a number from the device.")
        notes += [f"Not measured: {name}, {reason}." for name, reason in self.not_measured.items()]
        notes += [self.remedy] if self.remedy else []
        return [line for note in notes for line in textwrap.wrap(note, WIDTH)]


def shown_time(seconds: float) -> str:
    """A time in a suitable unit."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if abs(seconds) * factor < 1000:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds:.2f} s"


def measure(learn: FullLearner, n_steps: int = 50) -> StepCost:
    """Measure the cost of a training step: per operation, per callback, for data, and against a plain loop.

    The learner trains for some steps in a sandbox, several times. Callbacks that can write files or send
    numbers are left out and listed. If a step takes more than 50 ms, the steps with clocks inside are also
    used for the total, and the plain loop takes a quarter as many.

    Args:
        learn: the learner.
        n_steps: the number of steps, at least 20; the data is repeated as often as needed.

    Returns:
        The times; `print` shows a table, and what to do if the loop waits for data. In several processes
        all of them must call this, and each has its own times.

    Raises:
        ValueError, TypeError, RuntimeError: nothing can be measured; the message says why.
    """
    check_count("cost", "n_steps", n_steps, 2 * BLOCK)
    check_trainable(learn, "cost")
    left_out = {each.name: reason for each in learn.callbacks if (reason := why_not(each))}
    plain, timed, bare, ranks = Runs(), Runs(), Runs(), ranks_of(learn)
    why_not_bare = None
    for _ in range(N_ROUNDS):
        meter, n_each = Meter(), n_steps // N_ROUNDS
        watch = run(learn, n_each, left_out, meter)
        timed.add(watch, meter)
        is_slow = ranks.first(lambda watch=watch: watch.is_slow)  # all processes run the same loops
        plain.add(watch if is_slow else run(learn, n_each, left_out))
        if why_not_bare is None and not (is_slow and bare.works):  # it runs once, between the two others
            n_bare = n_steps // 4 if is_slow else n_each
            why_not_bare = why_no_bare_loop(learn) or run_bare(learn, n_bare, bare)
    reads = Meter() if plain.device.type == "cpu" else run_reads(learn, left_out, plain.device)
    if not plain.works:
        raise RuntimeError(
            "cost(): no training step was completed, because a callback cancels each of them. "
            "learn.explain() prints which callbacks run."
        )
    return as_cost(learn, (plain, timed, bare), reads, left_out, why_not_bare)


def typical(values: list[float]) -> float:
    """The median of block means: it includes work at intervals, but not single disturbed steps."""
    if not values:
        return 0.0
    blocks = [values[at : at + BLOCK] for at in range(0, len(values), BLOCK)]
    whole = [block for block in blocks if len(block) == BLOCK] or blocks
    return median(mean(block) for block in whole)


def as_cost(
    learn: FullLearner, runs: Any, reads: Meter, left_out: dict[str, str], reason: str | None
) -> StepCost:
    """The result of the runs."""
    plain, timed, bare = runs
    keys = list(dict.fromkeys(key for step in timed.steps for key in step))
    step = {key: max(typical([each.get(key, 0.0) for each in timed.steps]), 0.0) for key in keys}
    names = [each.name for each in learn.callbacks if each.name not in left_out]
    epoch = {
        name: max(median([each.get(("callback", name), 0.0) for each in timed.epochs] or [0.0]), 0.0)
        for name in names
    }
    counted = reads.reads[1:] or reads.reads
    waits = {key[1]: mean(each.get(key, 0.0) for each in counted) for each in counted for key in each}
    wait = mean(plain.waits)
    whole = typical(plain.works) + wait
    return StepCost(
        step=whole,
        data_wait=wait,
        first_batch=median(plain.firsts),
        operations={name: step[("operation", name)] for name in OPERATIONS if ("operation", name) in step},
        callbacks={name: CallbackCost(step.get(("callback", name), 0.0), epoch[name]) for name in names},
        bare=typical(bare.works) if bare.works and reason is None else None,
        why_not_bare=reason,
        device_waits=waits,
        not_measured=left_out,
        n_steps=len(plain.works),
        device=str(plain.device),
        remedy=remedy_for(learn.data.train, wait / whole) if wait > TOO_LONG * whole else None,
    )


def check_trainable(learn: FullLearner, method: str) -> None:
    """Raise an error for a learner that cannot train for a few steps now."""
    if learn.fitting:
        raise RuntimeError(f"{method}() was called during a fit: call it before or after.")
    if learn.optimizer is None:
        raise TypeError(f"{method}(): there is no optimizer to train with: pass Learner(..., optimizer=...).")
