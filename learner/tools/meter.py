"""Time a fit: its data, and each hook and operation without those called inside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from time import perf_counter
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import Callback, Order
from callbacks.core.contract import OPERATIONS, LearnerProtocol
from callbacks.core.registry import Callbacks
from callbacks.core.when import IN_BATCH
from callbacks.record.timer import wait_for
from learner.checks.preflight import Preflight
from learner.engine.composition import before_fit_call, guarded, implementation, in_turn, nobody, surrounded
from learner.loop import OPERATIONS as DEFAULTS
from learner.loop import Loop
from learner.passes.passes import Known
from learner.state.protocol import FullLearner, LoopProtocol

SLOW = 0.05  # seconds of a step; compared with that, clocks and the start of a fit are negligible
BLOCK = 10  # steps; rare events, and batches that workers deliver in bursts, average out within a block
Call = Callable[[FullLearner], Any]
Sums = defaultdict[tuple[str, str], float]  #: seconds, or counts


class Watch:
    """Yields the batches of a training pass, and records the waiting time and the work time of each.

    A pass ends early after enough steps; a validation pass has two batches. On an accelerator the last step
    of each block and pass waits until the device has finished. `make_batches` takes the loader. Before the
    `n_steps` there are `n_warm` steps that are not measured, or only one if the steps are slow. If there must
    be several passes, the first ones leave a step for each of the others.
    """

    def __init__(
        self,
        learn: FullLearner,
        n_steps: int,
        make_batches: Callable[[Any], Iterable[Any]] | None = None,
        n_warm: int = 0,
        n_passes: int = 1,
    ):
        self.learn, self.n_steps, self.n_warm = learn, n_steps + n_warm, n_warm
        self.n_passes = n_passes  # at least
        self.make_batches = make_batches or learn.data.batches
        self.waits: list[float] = []  # seconds, of each step
        self.works: list[float] = []
        self.firsts: list[int] = []  # which steps were the first of a pass
        self.after_step: Callable[[], None] = lambda: None
        self.show: Callable[[int, int], None] = lambda _n, _of: None
        self.device = torch.device("cpu")

    @property
    def n_left(self) -> int:
        """The number of steps that are missing."""
        return self.n_steps - len(self.works)

    @property
    def is_slow(self) -> bool:
        """Does a step take so long that fewer of them are enough? The first one may prepare something."""
        return len(self.works) > 1 and min(self.works[1:]) > SLOW

    def ends_pass(self, n_done: int) -> bool:
        """Is the pass over after this number of steps?"""
        return n_done >= self.n_steps - max(self.n_passes - len(self.firsts), 0)

    def batches(self, loader: Any) -> Iterator[Any]:
        """The batches of a pass."""
        return self.train(loader) if self.learn.training else islice(self.make_batches(loader), 2)

    def train(self, loader: Any) -> Iterator[Any]:
        """The batches of a training pass."""
        self.firsts.append(len(self.works))
        asked = perf_counter()
        for batch in self.make_batches(loader):
            got = perf_counter()
            yield batch
            n_done = len(self.works) + 1
            if self.ends_pass(n_done) or n_done % BLOCK == 0:
                wait_for(self.device)
            done = perf_counter()
            self.waits.append(got - asked)
            self.works.append(done - got)
            if n_done == 2 and self.n_warm > 1 and self.learn.ranks.first(lambda: self.is_slow):
                self.n_steps, self.n_warm = self.n_steps - self.n_warm + 1, 1
            self.after_step()
            self.show(n_done, self.n_steps)
            if self.ends_pass(n_done):
                return
            asked = perf_counter()


@dataclass
class WatchedPasses(Known):
    """The passes of a fit that a `Watch` measures: each starts at its first batch."""

    watch: Watch = field(kw_only=True)

    def begin(self, learn: LearnerProtocol, loader: Any, start: Any) -> tuple[int, Iterator[Any]]:
        """Start a pass."""
        return 0, self.watch.batches(loader)

    def without_passes(self) -> Known:
        """The same, for a callback that opens a sandbox."""
        return WatchedPasses(watch=self.watch)


class Conductor(Callback):
    """Ends the fit after enough steps; it runs last and is not timed."""

    order = Order.SAVE
    N_EPOCHS = 3  # at least, to measure what runs once per epoch

    def __init__(self, watch: Watch, meter: Meter | None = None, fewest: int = N_EPOCHS):
        super().__init__(name="cost_conductor")
        self.watch, self.meter, self.fewest, self.n_epochs = watch, meter, fewest, 0

    def before_train(self, learn: LearnerProtocol) -> None:
        self.watch.device = learn.device  # the model is on its device now

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self.n_epochs += 1
        if self.meter is not None:
            self.meter.end_epoch()
        if self.watch.n_left <= 0 and self.n_epochs >= self.fewest:
            learn.stop_reason = "enough was measured"


class Meter:
    """Times hooks and operations, each without those called inside it; for use in a sandbox.

    Keys are `("operation", name)` and `("callback", name)`. Batch events are timed in training only. If a
    callback does more, such as a validation within an epoch, that is its own time.
    """

    def __init__(self) -> None:
        self.steps: list[dict[tuple[str, str], float]] = []
        self.epochs: list[dict[tuple[str, str], float]] = []
        self.reads: list[dict[tuple[str, str], float]] = []
        self._step, self._epoch, self._read = (Sums(float) for _ in range(3))
        # the running calls, outermost first; None for a call once per epoch
        self._open: list[tuple[str, str] | None] = []
        self._inside: list[float] = []  # seconds of the calls inside each of them
        self._empty = 0.0  # what a clock around an empty call measures
        self._empty = self._calibrate()

    def _calibrate(self) -> float:
        nothing: Any = self._timed(("", ""), nobody, self._step)
        found = []
        for _ in range(200):
            nothing(SimpleNamespace(training=True))
            found.append(self._step.pop(("", "")))
        return median(found)

    def timed_events(self, callbacks: Callbacks) -> dict[str, Call]:
        """For each event, a function that calls all hooks, with a clock around each."""
        found = callbacks.hooks.items()
        hooks = {event: tuple(self._hook(event, each) for each in there) for event, there in found}
        before_fit = before_fit_call(callbacks, hooks["before_fit"])
        return {**{event: in_turn(event, found) for event, found in hooks.items()}, "before_fit": before_fit}

    def timed_operations(self, callbacks: Callbacks, learner_class: type) -> dict[str, Call]:
        """Each operation, with a clock around it and around each callback that surrounds it."""
        calls = {each: self._call(callbacks, learner_class, each) for each in OPERATIONS}
        return {each: guarded(each, call, callbacks.overrides.get(each)) for each, call in calls.items()}

    def _hook(self, event: str, hook: Any) -> Any:
        owner = hook.__self__
        if isinstance(owner, (Conductor, Preflight)):
            return hook
        timed = self._timed(("callback", owner.name), hook, self._step if event in IN_BATCH else self._epoch)
        return MethodType(lambda _owner, learn: timed(learn), owner)  # so that errors name it

    def _call(self, callbacks: Callbacks, learner_class: type, operation: str) -> Call:
        do = implementation(callbacks, operation, learner_class, DEFAULTS)
        if do is not nobody:
            do = self._timed(("operation", operation), do, self._step)
        for around in reversed(tuple(callbacks)):
            if operation in around.surrounds:
                do = self._timed(("callback", around.name), surrounded(around, operation, do), self._step)
        return do

    def _timed(self, key: tuple[str, str], do: Call, sums: dict[tuple[str, str], float]) -> Call:
        open_, inside = self._open, self._inside
        of_steps = sums is self._step

        def _timed(learn: FullLearner) -> Any:
            if not learn.training and (of_steps or open_):
                return do(learn)
            open_.append(key if of_steps else None)
            inside.append(0.0)
            start = perf_counter()
            try:
                return do(learn)
            finally:
                took = perf_counter() - start
                open_.pop()
                sums[key] += took - inside.pop() - self._empty
                if inside:
                    inside[-1] += took

        return _timed

    def end_step(self) -> None:
        """Close the sums of a training batch."""
        self.steps.append(dict(self._step))
        self.reads.append(dict(self._read))
        self._step.clear()
        self._read.clear()

    def end_epoch(self) -> None:
        """Close the sums of an epoch."""
        self.epochs.append(dict(self._epoch))
        self._epoch.clear()

    def count_read(self) -> None:
        """Count a read from a device for the innermost running call."""
        if self._open and self._open[-1] is not None:
            self._read[self._open[-1]] += 1


class TimedLoop(Loop):
    """A loop with a clock around each hook and operation, which takes over the state of another."""

    def __init__(self, loop: LoopProtocol, meter: Meter):
        vars(self).update(vars(loop))
        self.meter = meter

    def connect(self, learn: FullLearner, callbacks: Iterable[Callback]) -> None:
        """Put the clocks around what each event and operation calls."""
        super().connect(learn, callbacks)
        self.on = self.meter.timed_events(self.callbacks)
        self.do = self.meter.timed_operations(self.callbacks, type(learn))


TO_CPU = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
READS = (
    torch.ops.aten._local_scalar_dense.default,  # .item(), float(), bool(), print
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
)


class Reads(TorchDispatchMode):
    """Counts reads of numbers from a device: each one waits for it.

    Nothing waits on a CPU, and callbacks read numbers there that they do not read on an accelerator.
    """

    def __init__(self, meter: Meter, device: torch.device):
        super().__init__()
        self.meter, self.device = meter, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func in READS and args[0].device.type == self.device.type) or (
            func in TO_CPU and fetches(args, kwargs)
        ):
            self.meter.count_read()
        return func(*args, **kwargs)


def fetches(args: Any, kwargs: Any) -> bool:
    """Is a tensor copied from an accelerator to the CPU, by a copy that waits?"""
    tensors = [each for each in args if isinstance(each, Tensor)]
    source = tensors[-1] if tensors else None
    target = kwargs.get("device") or (tensors[0].device if len(tensors) > 1 else None)
    if source is None or target is None or kwargs.get("non_blocking"):
        return False
    return torch.device(target).type == "cpu" and source.device.type not in ("cpu", "meta")
