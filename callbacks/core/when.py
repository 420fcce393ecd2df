"""Let a plug-in hear only from, until, or now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callbacks.core.contract import EVENTS, OPERATIONS, Callback, Direction, LearnerProtocol
from callbacks.core.every import SECONDS, parse_interval
from callbacks.core.registry import as_plugin, check_attributes, describe, does
from callbacks.core.registry import unwrapped as unwrapped  # is imported from here too

ALWAYS = ("before_fit", "after_fit", "cleanup_fit")
SPANS = {
    "before_epoch": "epoch",
    "after_epoch": "epoch",
    "before_train": "train",
    "after_train": "train",
    "before_validate": "validate",
    "after_validate": "validate",
}
IN_BATCH = tuple(event for event in EVENTS if event not in (*ALWAYS, *SPANS))


class When(Callback):
    """Let any plug-in hear only from some moment on, until another, or now and then.

        When(GradientNorms(), every="10 steps")
        When(EarlyStopping(), start="5 epochs")
        When(MixUp(), until="90 epochs")

    Name, phase, results and needs are those of the plug-in itself. It always hears `before_fit`, `after_fit`
    and `cleanup_fit`. What it hears the beginning of it hears to its end: an epoch, a pass or a batch is
    looked at when it begins. Where `start` falls into the middle of a training pass, the plug-in is told
    `before_epoch` and `before_train` then. A schedule starts where its window opens: see `ParamScheduler`.
    The callback is found by its own class, as `learn.callbacks[EarlyStopping]`; by name it is the `When`.

    Steps and samples are those of the clock, over all fits; epochs are counted within a fit.

    Args:
        plugin: any plug-in that listens to events, or its class.
        every: `"10 steps"`, `"1000 samples"`: hear the training batches that make step 10, 20, ..., those of
            a validation never, and what comes once a pass or epoch always. `"2 epochs"`: hear the second,
            fourth, ... epoch, whole.
        start: hear nothing before so many `steps`, `samples` or `epochs` are done.
        until: hear nothing once so many are done.

    Attributes:
        plugin: the plug-in itself.

    Raises:
        TypeError: `plugin` is none.
        ValueError: it does an operation, as `ZeroGrad`, which must be done each time, or saves the run;
            `every`, `start` and `until` are all missing, a unit cannot be used, or nothing is left to hear.
    """

    state = ("inner", "heard")

    def __init__(
        self,
        plugin: Callback | type[Callback],
        *,
        every: str | None = None,
        start: str | None = None,
        until: str | None = None,
        name: str | None = None,
    ):
        self.plugin = self.wrapped = check_plugin(plugin)
        self._words: dict[str, str | None] = {}  # `every`, `start` and `until` as they were given
        super().__init__(name=name or self.plugin.name)
        self.every, self.start, self.until = every, start, until
        check_window(self)
        self.order, self.needs = self.plugin.order, self.plugin.needs
        self._reset()

    def _reset(self) -> None:
        self.heard: list[str] = []  # spans under way whose beginning the plug-in has been told
        self._in_batch = {True: False, False: False}  # is the batch heard, of training and beside it?

    @property
    def every(self) -> str | None:
        """Which batches or epochs are heard."""
        return self._words["every"]

    @every.setter
    def every(self, every: str | None) -> None:
        self._every = self._parsed("every", every)

    @property
    def start(self) -> str | None:
        """When it begins to be heard."""
        return self._words["start"]

    @start.setter
    def start(self, start: str | None) -> None:
        self._start = self._parsed("start", start)

    @property
    def until(self) -> str | None:
        """When it is heard no more."""
        return self._words["until"]

    @until.setter
    def until(self, until: str | None) -> None:
        self._until = self._parsed("until", until)

    def _parsed(self, argument: str, words: str | None) -> tuple[int, str] | None:
        """Keep an argument as it was given, and give its number and unit."""
        found = None if words is None else parsed(argument, words)
        self._words[argument] = words
        return found

    @property
    def measures(self) -> Mapping[str, Direction | None]:  # type: ignore[override]
        """What the plug-in writes to `learn.results`."""
        return self.plugin.measures

    @property
    def inner(self) -> dict[str, Any]:
        """The plug-in's own state."""
        return self.plugin.state_dict()

    @inner.setter
    def inner(self, state: dict[str, Any]) -> None:
        self.plugin.load_state_dict(state)

    def objects(self) -> dict[str, Any]:
        """What the callback declares."""
        return self.plugin.objects()

    def listens_to(self, event: str) -> bool:
        """What the plug-in listens to, and the spans by which its batches are looked at."""
        return event in (*SPANS, "before_fit", "before_batch") or self.plugin.listens_to(event)

    # The fit as a whole

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._reset()
        self.plugin.before_fit(learn)

    def after_fit(self, learn: LearnerProtocol) -> None:
        self.plugin.after_fit(learn)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._reset()
        self.plugin.cleanup_fit(learn)

    # Epochs and passes

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "before_epoch")

    def before_train(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "before_train")

    def after_train(self, learn: LearnerProtocol) -> None:
        self._end(learn, "after_train")

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._begin(learn, "before_validate")

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._end(learn, "after_validate")

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._end(learn, "after_epoch")

    def _begin(self, learn: LearnerProtocol, event: str) -> None:
        span = SPANS[event]
        if span in self.heard or self._is_open(learn):  # heard already where a fit goes on from a checkpoint
            self._tell(learn, event)

    def _tell(self, learn: LearnerProtocol, event: str) -> None:
        if SPANS[event] not in self.heard:
            self.heard.append(SPANS[event])
        getattr(self.plugin, event)(learn)

    def _end(self, learn: LearnerProtocol, event: str) -> None:
        if SPANS[event] in self.heard:
            self.heard.remove(SPANS[event])
            getattr(self.plugin, event)(learn)

    # Batches

    def before_batch(self, learn: LearnerProtocol) -> None:
        self._in_batch[learn.training] = self._is_open(learn) and self._is_due(learn)
        if not self._in_batch[learn.training]:
            return
        if learn.training and "train" not in self.heard:  # the window has opened in the middle
            if "epoch" not in self.heard:
                self._tell(learn, "before_epoch")
            self._tell(learn, "before_train")
        self.plugin.before_batch(learn)

    def after_pred(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.after_pred(learn)

    def after_loss(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.after_loss(learn)

    def before_backward(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.before_backward(learn)

    def after_backward(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.after_backward(learn)

    def before_step(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.before_step(learn)

    def after_step(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.after_step(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if self._in_batch[learn.training]:
            self.plugin.after_batch(learn)

    # When

    def _is_open(self, learn: LearnerProtocol) -> bool:
        """Is it between `start` and `until`, and in an epoch that is heard?"""
        if self._start is not None and done(learn, self._start[1]) < self._start[0]:
            return False
        if self._until is not None and done(learn, self._until[1]) >= self._until[0]:
            return False
        if self._every is None or self._every[1] != "epoch":
            return True
        return (learn.epoch + 1) % self._every[0] == 0

    def _is_due(self, learn: LearnerProtocol) -> bool:
        """Does this batch make one of the steps, or have one of the samples, that are heard?"""
        if self._every is None or self._every[1] == "epoch":
            return True
        number, unit = self._every
        n_more = 1 if unit == "step" else learn.n_items
        before = learn.global_step if unit == "step" else learn.n_samples + learn.n_waiting
        return learn.training and (before + n_more) // number > before // number

    def __repr__(self) -> str:
        shown = [f"{key}={getattr(self, key)!r}" for key in ("every", "start", "until") if getattr(self, key)]
        return f"When({', '.join([repr(self.plugin), *shown])})"


def done(learn: LearnerProtocol, unit: str) -> int:
    """So many are done."""
    return {"step": learn.global_step, "sample": learn.n_samples, "epoch": learn.epoch}[unit]


def check_plugin(plugin: Any) -> Callback:
    """The plug-in that was meant, one that can hear less and do its work all the same.

    Raises:
        TypeError, ValueError: it is none, or cannot.
    """
    found = as_plugin(plugin, "When(plugin)")
    check_attributes([found])
    operations = [each for each in OPERATIONS if does(found, each) or each in found.surrounds]
    if operations:
        raise ValueError(
            f"When({describe(found)}): it does the operation {operations[0]!r}, which must be done each "
            "time. Add it as it is; only plug-ins that listen to events can hear less."
        )
    if found.saves_checkpoints:
        title = describe(found)
        raise ValueError(f"When({title}): a run is saved from start to end. Pass {title}(every=...).")
    return found


def parsed(argument: str, interval: str) -> tuple[int, str]:
    """`"10 steps"` to `(10, "step")`.

    Raises:
        ValueError: no number and unit, or a unit of time, by which no run goes on with the same bits.
    """
    try:
        number, unit = parse_interval(interval)
    except ValueError:
        number, unit = 0.0, ""
    if not unit or unit in SECONDS:
        raise ValueError(
            f"When({argument}={interval!r}): write a whole number of steps, samples or epochs, as "
            "'100 steps'."
        )
    return int(number), unit


def check_window(when: When) -> None:
    """Refuse a When that changes nothing, or lets nothing through."""
    if when.every is None and when.start is None and when.until is None:
        raise ValueError(
            f"When({describe(when.plugin)}) without every, start and until changes nothing: add the plug-in "
            "as it is, or say when, as start='2 epochs'."
        )
    start, until = when._start, when._until
    if start is not None and until is not None and start[1] == until[1] and start[0] >= until[0]:
        raise ValueError(
            f"When(start={when.start!r}, until={when.until!r}): nothing is left to hear. Let until be later."
        )
