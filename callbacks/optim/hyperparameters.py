"""An optimizer's hyperparameters: by their usual names, restored after a fit, changed by one callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.every import parse_interval
from callbacks.core.when import window_of

Settings = dict[str, Any]
ADDED = {"step", "_opt_called", "_wrapped_by_lr_sched"}  # what a scheduler of torch sets on an optimizer


class Kept:
    """Settings of an optimizer as they are now, to be restored; a tensor of a rate stays the same tensor.

    Some optimizers keep their progress among their settings, as schedule-free ones do: that is left alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *names: str):
        self.optimizer = optimizer
        self.changed = {*names, "betas"} if "momentum" in names else set(names)
        self.earlier: Kept | None = None  # of the optimizer that this one has replaced during a fit
        self.groups, self.tensors = list[Settings](), list[Settings]()
        self.note_added()
        self.attributes = set(getattr(optimizer, "__dict__", ()))

    def of(self, optimizer: torch.optim.Optimizer) -> Kept:
        """Itself, with added groups; or, if another optimizer has replaced its own, what that one has now.

        `restore` gives both their settings.
        """
        if optimizer is self.optimizer:
            self.note_added()
            return self
        new = Kept(optimizer, *self.changed)
        new.earlier = self
        return new

    def note_added(self) -> None:
        """Keep the settings of groups that were added since the last call, as they are now."""
        for group in self.optimizer.param_groups[len(self.groups) :]:
            self.groups.append(settings_of(group))
            self.tensors.append({name: value for name, value in group.items() if isinstance(value, Tensor)})

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note which settings the block changes or adds."""
        self.note_added()
        before = [dict(group) for group in self.optimizer.param_groups]
        yield
        for group, old in zip(self.optimizer.param_groups, before, strict=False):
            self.changed |= {name for name, now in group.items() if name not in old or old[name] is not now}

    def restore(self) -> None:
        """Restore what was changed in every group, and remove what a scheduler has set on the optimizer."""
        groups = self.optimizer.param_groups
        for group, settings, tensors in zip(groups, self.groups, self.tensors, strict=False):
            for name in self.changed & set(group):
                if name in tensors:  # captured graphs read it there
                    group[name] = tensors[name].copy_(settings[name])
                elif name in settings:
                    group[name] = settings[name]
                else:
                    del group[name]
        for name in ADDED & (set(getattr(self.optimizer, "__dict__", ())) - self.attributes):
            delattr(self.optimizer, name)
        if self.earlier is not None:
            self.earlier.restore()


def settings_of(group: Settings) -> Settings:
    """A parameter group's settings; a rate that is a tensor is copied."""
    return {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in group.items()
        if name != "params"
    }


def names_of(group: Settings) -> list[str]:
    """The hyperparameters of a group; `momentum` of Adam and its kin is the first of the betas."""
    numbers = [name for name, value in group.items() if is_scalar(value) and name != "layer_group"]
    return [*numbers, "momentum"] if "betas" in group and "momentum" not in numbers else numbers


def is_scalar(value: Any) -> bool:
    """A number, or a tensor of one."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def get(group: Settings, name: str) -> Any:
    """The value of a hyperparameter."""
    return group["betas"][0] if name == "momentum" and "momentum" not in group else group[name]


def put(group: Settings, name: str, value: float) -> None:
    """Change a hyperparameter; a tensor keeps its place, for graphs that were captured with it."""
    if name == "momentum" and "momentum" not in group:
        group["betas"] = (value, *group["betas"][1:])
    elif isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Does each group have a momentum, or betas, that is in use?"""
    return all("momentum" in names_of(group) and get(group, "momentum") for group in optimizer.param_groups)


def check_alone(callback: Callback, learn: LearnerProtocol) -> None:
    """Raise an error if another callback sets the same hyperparameters, unless one follows the other.

    That is so if one starts, by its window or its `sets_from`, where the window of the other ends.
    """
    for other in learn.callbacks:
        both = sorted({*callback.sets_hyperparameters} & {*other.sets_hyperparameters})
        if other is not callback and both and not follows(other, callback) and not follows(callback, other):
            optional = [type(each).__name__ for each in (callback, other) if each.averages_weights]
            hint = ", ".join(["leave one of them out", *(f"leave lr out of {title}" for title in optional)])
            raise ValueError(
                f"{titled(callback)} and {titled(other)} both change {' and '.join(both)}, and the later "
                f"one would win: {hint}, combine both in one schedule with annealers.combine, or run one "
                "after the other: When(..., until='5 epochs'), When(..., start='5 epochs')."
            )


def titled(callback: Callback) -> str:
    """Class and name of a callback."""
    return f"{type(callback).__name__} {callback.name!r}"


def follows(later: Callback, earlier: Callback) -> bool:
    """Does one start where the window of the other ends?"""
    window = window_of(earlier)
    if window is None or not window.until:
        return False
    until, unit = parse_interval(window.until)
    starts = [parse_interval(each) for each in starts_of(later)]
    # steps and epochs cannot be compared: the user is trusted
    return any(start_unit != unit or start >= until for start, start_unit in starts)


def starts_of(callback: Callback) -> list[str]:
    """When it starts to change values: by its own `sets_from`, and by its window."""
    window = window_of(callback)
    return [each for each in (callback.sets_from, window and window.start) if each]
