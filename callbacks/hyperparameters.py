"""An optimizer's hyperparameters: by the names that people use, put back after a fit, changed by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.contract import Callback, LearnerProtocol

Settings = dict[str, Any]


class Kept:
    """An optimizer's settings as they are now, to be put back.

    Args:
        optimizer: whose.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.groups = [settings_of(group) for group in optimizer.param_groups]
        self.names = set(vars(optimizer))

    def put_back(self) -> None:
        """Give every group its settings, and take away what a scheduler has hung on the optimizer."""
        for group, settings in zip(self.optimizer.param_groups, self.groups, strict=False):
            for name in set(group) - set(settings) - {"params"}:
                del group[name]
            group.update(settings)
        for name in set(vars(self.optimizer)) - self.names:  # a wrapper of `step`, and its mark
            delattr(self.optimizer, name)


def settings_of(group: Settings) -> Settings:
    """A parameter group's settings; a rate that is a tensor is copied."""
    return {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in group.items()
        if name != "params"
    }


def names_of(group: Settings) -> list[str]:
    """The hyperparameters of a group; `momentum` of Adam and its kin is the first of the betas."""
    numbers = [name for name, value in group.items() if is_number(value)]
    return [*numbers, "momentum"] if "betas" in group and "momentum" not in numbers else numbers


def is_number(value: Any) -> bool:
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


def check_alone(plugin: Callback, learn: LearnerProtocol) -> None:
    """Refuse two plug-ins that would write over each other's values; each has the names in `schedules`.

    Raises:
        ValueError: tells both.
    """
    for other in learn.callbacks:
        both = sorted(set(getattr(other, "schedules", ())) & set(getattr(plugin, "schedules", ())))
        if other is not plugin and both:
            raise ValueError(
                f"{type(plugin).__name__} {plugin.name!r} and {type(other).__name__} {other.name!r} both "
                f"change {' and '.join(both)}, and the later one would win: take one of them out, or make "
                "one schedule of both with annealers.combine."
            )
