"""Windows: call a callback only from, until, or every so often."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

from callbacks.core.contract import EVENTS, Callback, LearnerProtocol
from callbacks.core.every import whole_interval
from callbacks.core.given import as_callback, check_attributes, describe, overridden_by
from callbacks.core.warning import warn_renamed

STARTS = {"before_epoch": "epoch", "before_train": "train", "before_validate": "validate"}
ENDS = {"after_epoch": "epoch", "after_train": "train", "after_validate": "validate"}
CLOCK = {"step": "global_step", "sample": "n_samples", "epoch": "epoch"}
ALWAYS = ("before_fit", "after_fit", "cleanup_fit")
IN_BATCH = tuple(event for event in EVENTS if event not in (*ALWAYS, *STARTS, *ENDS))

#: The function of a bound method: it takes the callback and the learner.
Hook = Callable[[Any, LearnerProtocol], Any]


class Interval:
    """An attribute of `When` such as `"10 steps"`, which is checked when it is assigned."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, when: When | None, owner: type) -> Any:
        return self if when is None else when.words[self.name]

    def __set__(self, when: When, words: str | None) -> None:
        when.points[self.name] = None if words is None else whole_interval("When", self.name, words, *CLOCK)
        when.words[self.name] = words


class When(Callback):
    """Call any callback only from a given moment, until a given moment, or at intervals.

        When(GradientNorms(), every="10 steps")
        When(EarlyStopping(), start="5 epochs")
        When(MixUp(), until="90 epochs")

    The learner has the callback itself, with its name, phase, results and needs; its window decides whether
    the loop calls it. `before_fit`, `after_fit` and `cleanup_fit` are always called. The window is checked
    when an epoch, a pass or a batch starts; if it is open then, the event at the end is called too. If
    `start` is reached within a training pass, `before_epoch` and `before_train` are called then. A schedule
    starts when its window opens; see `ParamScheduler`. `learn.callbacks[EarlyStopping]` is the callback, and
    `learn.callbacks[When]` its window.

    Steps and samples are counted over all fits, epochs within a fit.

    Args:
        callback: any callback that listens to events, or its class.
        every: with `"10 steps"` or `"1000 samples"`, call it for the training batches that complete step 10,
            20, ..., never for a batch of validation, and always for the starts and ends of passes and epochs.
            With `"2 epochs"`, call it in the second, fourth, ... epoch.
        start: do not call it before this many `steps`, `samples` or `epochs` are done.
        until: do not call it once this many are done.

    Attributes:
        callback: the callback.

    Raises:
        TypeError: `callback` is not a callback.
        ValueError: it overrides an operation, as `ZeroGrad` does, which must run each time, or it saves the
            run; `every`, `start` and `until` are all missing, a unit cannot be used, or the window is empty.
    """

    state = ("inner", "spans")
    every, start, until = Interval(), Interval(), Interval()

    def __init__(
        self,
        callback: Callback | type[Callback] | None = None,
        *,
        every: str | None = None,
        start: str | None = None,
        until: str | None = None,
        name: str | None = None,
        plugin: Callback | type[Callback] | None = None,  # vocabulary: quoted
    ):
        if plugin is not None:  # vocabulary: quoted
            warn_renamed("When(plugin=)", "When(callback=)")  # vocabulary: quoted
        held = check_callback(callback if plugin is None else plugin)  # vocabulary: quoted
        self.inner_window = held if isinstance(held, When) else None
        self.callback = self.inner_window.callback if self.inner_window else held
        if name is not None:
            self.callback.name = name
        super().__init__(name=self.callback.name)
        self.order = self.callback.order
        self.words: dict[str, str | None] = {}  # `every`, `start` and `until` as they were passed
        self.points: dict[str, tuple[int, str] | None] = {}  # their numbers and units
        self.every, self.start, self.until = every, start, until
        check_window(self)
        self._reset()

    def _reset(self) -> None:
        self.spans: list[str] = []  # that have started for the callback: "epoch", "train", "validate"
        self._calls = {True: False, False: False}  # is it called in this batch, of training or otherwise?

    @property
    def inner(self) -> dict[str, Any]:
        """The state of the callback, or of the window within this one."""
        return (self.inner_window or self.callback).state_dict()

    @inner.setter
    def inner(self, state: dict[str, Any]) -> None:
        (self.inner_window or self.callback).load_state_dict(state)

    def listens_to(self, event: str) -> bool:
        """Does the callback listen to this event, or does the window need it?"""
        return event in (*STARTS, *ENDS, "before_fit", "before_batch") or self.callback.listens_to(event)

    def hook(self, event: str) -> Hook:
        """What the loop calls for an event instead of the callback's own hook."""
        own = self._own(event)
        if event == "before_fit":
            return lambda _callback, learn: (self._reset(), own(learn))
        if event == "before_batch":
            return self._batch_start(own)
        if event in STARTS:
            return self._start_of(STARTS[event], own)
        if event in ENDS:
            return self._end_of(ENDS[event], own)
        return self._in_batch(own) if event not in ALWAYS else lambda _callback, learn: own(learn)

    def _own(self, event: str) -> Callable[[LearnerProtocol], Any]:
        """The callback's hook, or that of the window within this one."""
        if self.inner_window is None:
            return getattr(self.callback, event)
        return MethodType(self.inner_window.hook(event), self.callback)

    def _start_of(self, span: str, own: Callable[[LearnerProtocol], Any]) -> Hook:
        def _start(_callback: Callback, learn: LearnerProtocol) -> None:
            if span in self.spans or self._is_open(learn):  # a resumed fit has it among its spans already
                self._enter(span)
                own(learn)

        return _start

    def _enter(self, span: str) -> None:
        if span not in self.spans:
            self.spans.append(span)

    def _end_of(self, span: str, own: Callable[[LearnerProtocol], Any]) -> Hook:
        def _end(_callback: Callback, learn: LearnerProtocol) -> None:
            if span in self.spans:
                self.spans.remove(span)
                own(learn)

        return _end

    def _batch_start(self, own: Callable[[LearnerProtocol], Any]) -> Hook:
        starts = {"epoch": self._own("before_epoch"), "train": self._own("before_train")}

        def _start(_callback: Callback, learn: LearnerProtocol) -> None:
            self._calls[learn.training] = self._is_open(learn) and self._is_due(learn)
            if not self._calls[learn.training]:
                return
            if learn.training and "train" not in self.spans:  # the window has opened within the pass
                for span in [each for each in starts if each not in self.spans]:
                    self._enter(span)
                    starts[span](learn)
            own(learn)

        return _start

    def _in_batch(self, own: Callable[[LearnerProtocol], Any]) -> Hook:
        def _call(_callback: Callback, learn: LearnerProtocol) -> None:
            if self._calls[learn.training]:
                own(learn)

        return _call

    def is_calling(self, learn: LearnerProtocol) -> bool:
        """Is the callback called in the current batch?"""
        return self._calls[learn.training] and (not self.inner_window or self.inner_window.is_calling(learn))

    def _is_open(self, learn: LearnerProtocol) -> bool:
        """Is it between `start` and `until`, and in an epoch of `every`?"""
        start, until, every = self.points["start"], self.points["until"], self.points["every"]
        if start is not None and getattr(learn, CLOCK[start[1]]) < start[0]:
            return False
        if until is not None and getattr(learn, CLOCK[until[1]]) >= until[0]:
            return False
        return every is None or every[1] != "epoch" or (learn.epoch + 1) % every[0] == 0

    def _is_due(self, learn: LearnerProtocol) -> bool:
        """Does this batch complete one of the steps, or contain one of the samples, of `every`?"""
        every = self.points["every"]
        if every is None or every[1] == "epoch":
            return True
        number, unit = every
        n_more = 1 if unit == "step" else learn.ranks.n_items(learn)
        before = learn.global_step if unit == "step" else learn.n_samples + learn.n_waiting
        return learn.training and (before + n_more) // number > before // number

    @property
    def window(self) -> str:
        """The window in words: `start='5 epochs'`."""
        return ", ".join(f"{key}={words!r}" for key, words in self.words.items() if words)

    def __repr__(self) -> str:
        return f"When({self.inner_window or self.callback!r}, {self.window})"


def windows_of(callback: Callback) -> list[When]:
    """The windows of a callback, the outermost first; empty if it is always called."""
    window, found = callback._called_when, []
    while window is not None:
        found.append(window)
        window = window.inner_window
    return found


def window_of(callback: Callback) -> When | None:
    """The outermost window of a callback; None if it is always called."""
    return callback._called_when


def set_window(callback: Callback) -> Callback:
    """The callback itself; one that is passed in a `When` keeps that as its window."""
    if not isinstance(callback, When):
        return callback
    callback.callback._called_when = callback
    return callback.callback


def passed(callbacks: Iterable[Callback], present: Iterable[Callback] = ()) -> list[Callback]:
    """The callbacks that a user passes, each with the window that it is passed in, or without one.

    A `When` stands for its callback. Those of `present` keep their windows.
    """
    kept = set(map(id, present))
    for callback in callbacks:
        if id(callback) not in kept:
            callback._called_when = None  # of an earlier learner or fit
    return [set_window(callback) for callback in callbacks]


def saved_part(callback: Callback) -> Callback:
    """What is saved of a callback: itself, or its window, whose state includes that of the callback."""
    return window_of(callback) or callback


def check_callback(given: Any) -> Callback:
    """The callback that was meant, if it may be called less often."""
    found = as_callback(given, "When(callback)")
    check_attributes([found])
    operations = [*overridden_by(found), *found.surrounds]
    if operations:
        raise ValueError(
            f"When({describe(found)}): it implements the operation {operations[0]!r}, which must run each "
            "time. Add it without When, which is for callbacks that listen to events only."
        )
    if found.saves_checkpoints:
        title = describe(found)
        raise ValueError(
            f"When({title}): saving cannot be limited to a window. To save less often, use "
            f"{title}(every=...)."
        )
    return found


def check_window(when: When) -> None:
    """Raise an error for a window that is always open, or never."""
    if not when.window:
        raise ValueError(
            f"When({describe(when.callback)}) without every, start or until has no effect: add the "
            "callback without When, or set its window, as in start='2 epochs'."
        )
    start, until = when.points["start"], when.points["until"]
    if start is not None and until is not None and start[1] == until[1] and start[0] >= until[0]:
        raise ValueError(
            f"When(start={when.start!r}, until={when.until!r}): the window is empty. Set a later until."
        )
