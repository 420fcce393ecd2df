"""The short fits and the hand-written loop that `learn.cost()` measures; they leave the learner as it was."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from callbacks import Callback, LearnerWarning, LogRMSE, Order, Progress, Recorder
from callbacks.core.contract import OPERATIONS
from callbacks.optim.optimizers import needs_closure, set_mode, title_of
from callbacks.place.device import to_device
from callbacks.record.bar import bar_of
from learner.checks.preflight import Preflight
from learner.checks.process_checks import ranks_of
from learner.engine.composition import overrides
from learner.engine.interrupt import interruptible
from learner.loop import OPERATIONS as DEFAULTS
from learner.state.optimizer_modes import switching
from learner.state.protocol import FullLearner
from learner.tools.meter import BLOCK, Conductor, Meter, Reads, TimedLoop, Watch, WatchedPasses

N_WARM = 5  # steps that are not measured: the first ones select kernels and fill caches


class Runs:
    """The steps of several runs, without the first steps of each."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.works: list[float] = []
        self.firsts: list[float] = []
        self.steps: list[dict[Any, float]] = []
        self.epochs: list[dict[Any, float]] = []
        self.device = torch.device("cpu")

    def add(self, watch: Watch, meter: Meter | None = None) -> None:
        """Add the measurements of a run."""
        first = watch.n_warm if len(watch.works) > watch.n_warm else 0
        begins = {step for step in watch.firsts if step < len(watch.waits)}
        later = [wait for step, wait in enumerate(watch.waits) if step >= first and step not in begins]
        self.waits += later or watch.waits[first:]
        self.firsts += [watch.waits[step] for step in sorted(begins)]
        self.works += watch.works[first:]
        self.device = watch.device or self.device
        if meter is not None:
            self.steps += meter.steps[first:]
            self.epochs += meter.epochs


def run(learn: FullLearner, n_steps: int, left_out: dict[str, str], meter: Meter | None = None) -> Watch:
    """A fit; a meter puts a clock around each call of the loop."""
    with alone(learn, left_out):
        watch = Watch(learn, n_steps, n_warm=N_WARM, n_passes=Conductor.N_EPOCHS)
        with steps_shown(watch, "steps with clocks" if meter else "steps"):
            return fit(learn, watch, meter)


@contextlib.contextmanager
def steps_shown(watch: Watch, what: str) -> Iterator[None]:
    """Show a bar of the steps, unless the learner has one itself."""
    if Progress in watch.learn.callbacks:
        yield
        return
    with bar_of(f"learn.cost(): {what}", "step") as draw:
        watch.show = draw
        yield


def run_reads(learn: FullLearner, left_out: dict[str, str], device: torch.device) -> Meter:
    """A few steps that count reads of numbers; counting is slow, so nothing is timed."""
    with alone(learn, left_out):
        meter = Meter()
        with Reads(meter, device):
            fit(learn, Watch(learn, BLOCK + 1, n_passes=Conductor.N_EPOCHS), meter)
    return meter


def fit(
    learn: FullLearner, watch: Watch, meter: Meter | None = None, n_epochs: int = Conductor.N_EPOCHS
) -> Watch:
    """Train until enough was measured, and for at least `n_epochs` epochs; a meter times the calls."""
    if meter is not None:
        learn.loop = TimedLoop(learn.loop, meter)
        watch.after_step = meter.end_step
    learn.loop.known = WatchedPasses(watch=watch)
    quiet = contextlib.redirect_stdout(io.StringIO())
    added = learn.added(Preflight(), Conductor(watch, meter, n_epochs))
    with quiet, interruptible(learn), switching(learn), added:
        learn.loop.fit(learn, watch.n_steps + n_epochs)
    return watch


def run_bare(learn: FullLearner, n_steps: int, found: Runs) -> str | None:
    """The hand-written loop; returns the reason if it cannot run."""
    watch = Watch(learn, n_steps, n_warm=N_WARM)
    with alone(learn, None), steps_shown(watch, "steps of a bare loop"):
        watch.device = learn.device
        learn.model.train()
        train = by_hand(learn)
        try:
            while watch.n_left > 0:
                n_before = watch.n_left
                for batch in watch.train(learn.data.train):
                    train(batch)
                if watch.n_left == n_before:
                    return "a pass over the data yielded no batch"
        except Exception as error:  # noqa: BLE001 - shown in the result: the fit works, so a callback is needed
            return f"it fails without the callbacks, with {type(error).__name__}: {str(error)[:200]}"
    found.add(watch)
    return None


def by_hand(learn: FullLearner) -> Any:
    """A hand-written step; operations that a subclass of the learner overrides are called."""
    model, loss_func, optimizer, device = learn.model, learn.loss_func, learn.optimizer, learn.device
    split = learn.data.split
    set_mode(optimizer, training=True)

    def own_step(batch: Any) -> None:
        learn.batch = to_device(batch, device)
        learn.inputs, learn.targets = split(learn.batch)
        for operation in ("forward", "compute_loss", "backward", "step"):
            getattr(type(learn), operation)(learn)
        optimizer.zero_grad()

    if loss_func is None or any(overrides(type(learn), DEFAULTS, each) for each in OPERATIONS):
        return own_step

    def step(batch: Any) -> None:
        inputs, targets = split(to_device(batch, device))
        preds = model(*inputs) if type(inputs) is tuple else model(**inputs)
        loss = loss_func(preds, *targets) if type(targets) is tuple else loss_func(preds, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def why_no_bare_loop(learn: FullLearner) -> str | None:
    """Why a loop by hand would train something else; None if it would not."""
    if ranks_of(learn).size > 1:
        return "the processes share each batch"
    return f"{title_of(learn.optimizer)} needs a closure" if needs_closure(learn.optimizer) else None


# Without a trace


@contextlib.contextmanager
def alone(learn: FullLearner, left_out: dict[str, str] | None, whose: str = "learn.cost()") -> Iterator[None]:
    """A sandbox with copies of the callbacks, or without any; restores all attributes of the learner too."""
    with untouched(learn), learn.sandbox(), untouched(learn), warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # warnings about fits do not apply
        learn.reported = set(learn.reported)
        learn.loop = copy.copy(learn.loop)
        learn.loop.connect(learn, [] if left_out is None else copies(learn, left_out, whose))
        learn.ignores_stops = True
        try:
            yield
        except Exception as error:
            error.add_note(f"while {whose} trained for some steps, which are undone")
            raise


@contextlib.contextmanager
def untouched(owner: Any) -> Iterator[None]:
    """Restore the attributes of an object.

    Those of a learner too: a sandbox closes with the callbacks that it was opened with.
    """
    kept = dict(vars(owner))
    try:
        yield
    finally:
        vars(owner).clear()
        vars(owner).update(kept)


def copies(learn: FullLearner, left_out: dict[str, str], whose: str) -> list[Callback]:
    """Copies of the measured callbacks, which share model, optimizer and data with the originals."""
    parts = [learn, learn.optimizer, learn.loss_func, learn.data, *learn.data.loaders.values()]
    parts += [*learn.model.modules(), *learn.model.parameters(), *learn.model.buffers()]
    memo = {id(part): part for part in parts}
    found = []
    for each in learn.callbacks:
        if each.name in left_out:
            continue
        try:
            found.append(copy.deepcopy(each, memo))
        except Exception as error:
            raise TypeError(
                f"{whose}: the callback {each.name!r} cannot be copied ({error}), so it would change in the "
                f"trial. Measure without it: with learn.without({each.name!r}): print({whose})."
            ) from error
    return found


QUIET = (Recorder, Progress, LogRMSE)  # they report, but write no file and send nothing


def why_not(callback: Callback) -> str | None:
    """Why a callback is left out, or None: written files and sent numbers cannot be undone."""
    if callback.acts_outside:
        return "because it writes files or sends numbers"
    if callback.order in (Order.REPORT, Order.SAVE) and type(callback) not in QUIET:
        return f"because it may write files or send numbers (phase {callback.order.name})"
    return None
