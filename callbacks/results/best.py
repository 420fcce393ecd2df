"""The best value of a result so far, for callbacks that compare epochs."""

from __future__ import annotations

import math
from difflib import get_close_matches

from callbacks.core.contract import Direction, LearnerProtocol
from callbacks.core.settings import check_number
from callbacks.core.warning import warn


class Best:
    """Keep the best value of one result, for callbacks that compare epochs.

    Args:
        monitor: the result's name, such as `"valid_loss"`.
        owner: the class of the callback, for messages.
        mode: `"min"` or `"max"`; by default the direction that the loss or metric declares.
        min_delta: a value counts as better only if the difference is larger than this, in the unit of the
            result; at least 0.

    Attributes:
        value: the best value; None before there is one. NaN and infinity are never better.
        epoch: the epoch of the best value, from 0 in each fit; None before there is one.

    Raises:
        ValueError, TypeError: a setting cannot be used.
    """

    def __init__(self, monitor: str, *, owner: str, mode: Direction | None = None, min_delta: float = 0.0):
        if not isinstance(monitor, str):
            raise TypeError(f"{owner}(monitor={monitor!r}): pass a result's name, such as 'valid_loss'.")
        if mode not in (None, "min", "max"):
            raise ValueError(
                f"{owner}(mode={mode!r}): mode must be 'min', 'max', or None for the metric's own direction."
            )
        if mode is not None and not monitor:
            warn(
                f"{owner}(mode={mode!r}) has no effect, because no result is named: add "
                f"{argument_of(owner)}='valid_loss', or leave mode out."
            )
        check_number(owner, "min_delta", min_delta, lambda x: x >= 0, "a finite number of at least 0")
        self.monitor, self.owner, self.min_delta = monitor, owner, min_delta
        self.mode: Direction | None = mode
        self.direction: Direction | None = mode
        self.value: float | None = None
        self.epoch: int | None = None

    def begin(self, learn: LearnerProtocol) -> None:
        """Check that the result will be measured, and reset the best value; call it in `before_fit`.

        Raises:
            ValueError: no result has that name, or the better direction is not known.
        """
        self.value = self.epoch = None
        check_measured(self.monitor, learn, self.owner)
        known = learn.measured[self.monitor]
        self.direction = self.mode or known
        if self.direction is None:
            raise ValueError(
                f"{place_of(self.monitor, self.owner)}: it is not known which direction is better. Use "
                f"{self.owner}(..., mode='min') or mode='max'; or, for all callbacks, set the attribute "
                "higher_is_better on the metric, such as my_metric.higher_is_better = False below the "
                "function."
            )
        if known not in (None, self.direction):
            warn(
                f"{self.owner}(mode={self.mode!r}): the better direction of {self.monitor} is {known!r}. "
                "Omit mode to use it."
            )

    def update(self, learn: LearnerProtocol) -> bool | None:
        """Read this epoch's result: is it the best so far? None if the epoch has no such result.

        Raises:
            ValueError: the result is not a number, or it has turned out that no epoch will have it.

        Warns:
            LearnerWarning: the last epoch ends, and the result was not a finite number in any epoch.
        """
        if self.monitor not in learn.results:
            check_measured(self.monitor, learn, self.owner)  # a loss may turn out not to be there
            return None
        value = learn.results[self.monitor]
        if not isinstance(value, (int, float)):
            raise ValueError(
                f"{self.owner}(monitor={self.monitor!r}): the result is {value!r}, but only a number can be "
                f"compared."
            )
        if not self.is_better(value):
            if self.value is None and (learn.stop_reason or learn.epoch + 1 == learn.n_epochs):
                warn(
                    f"{place_of(self.monitor, self.owner)}: {self.monitor} was not a finite number in any "
                    f"epoch (it is {value}), so no epoch is the best."
                )
            return False
        self.value, self.epoch = value, learn.epoch
        return True

    def is_better(self, value: float) -> bool:
        """Is this value better than the best one, by more than `min_delta`?"""
        if not math.isfinite(value):
            return False
        if self.value is None:
            return True
        gain = self.value - value if self.direction == "min" else value - self.value
        return gain > self.min_delta


def argument_of(owner: str) -> str:
    """The argument that names the result."""
    return "best" if owner == "Checkpoint" else "monitor"


def place_of(monitor: str, owner: str) -> str:
    """The argument with its value, as the user wrote it."""
    return f"{owner}({argument_of(owner)}={monitor!r})"


def check_measured(monitor: str, learn: LearnerProtocol, owner: str) -> None:
    """Raise an error for a name that no result will have.

    Raises:
        ValueError: lists what is measured, and the name that was probably meant.
    """
    names = list(learn.measured)
    if monitor in names:
        return
    place = place_of(monitor, owner)
    if not names:
        raise ValueError(
            f"{place}: nothing is measured. Add the callback that measures: callbacks=[Metrics()]."
        )
    if learn.data.valid is None and monitor.startswith(("valid_", "val_", "validation_")):
        other = f"train_{monitor.partition('_')[2]}"
        found = other if other in names else "train_loss"
        raise ValueError(
            f"{place}: there is no validation data. Pass some, with Data(train, valid), or monitor the "
            f"training data with {argument_of(owner)}={found!r}."
        )
    close = get_close_matches(monitor, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{place}: no result has that name.{hint} Available: {', '.join(names)}. Pass one of them, or add "
        "the metric with Learner(metrics=[...])."
    )
