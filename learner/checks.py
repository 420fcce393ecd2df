"""What is wrong with a composition: before a fit, on its first batch, and at length in `learn.check()`."""

from __future__ import annotations

from typing import Any

from callbacks import Callback, LearnerProtocol, Order
from callbacks.registry import REMEDIES


class Preflight(Callback):
    """Examine the first training batch of a fit, then leave; the learner adds it to every fit."""

    order = Order.PREPARE

    def after_batch(self, learn: LearnerProtocol) -> None:
        learn.remove_callbacks(self)


def check_before_fit(learn: Any) -> None:
    """Refuse a fit that cannot go well, before its first batch."""
    if "zero_grad" not in learn.callbacks.doers and not hasattr(type(learn), "zero_grad"):
        raise ValueError(f"this fit cannot start: {REMEDIES['zero_grad']}")


class Report:
    """What `learn.check()` found."""


def check(learn: Any) -> Report:
    return Report()
