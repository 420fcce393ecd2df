"""A callback that records the weight, and averages by hand."""

from __future__ import annotations

import torch

from callbacks import (
    Callback,
    Order,
)


class Watch(Callback):
    """A callback that records the weight at several events."""

    order = Order.SAVE

    def __init__(self):
        super().__init__()
        self.seen: dict[str, list[torch.Tensor]] = {}

    def keep(self, event, learn):
        self.seen.setdefault(event, []).append(learn.model.weight.detach().clone())

    def before_train(self, learn):
        self.keep("before_train", learn)

    def after_step(self, learn):
        self.keep("after_step", learn)

    def before_validate(self, learn):
        self.keep("before_validate", learn)

    def after_validate(self, learn):
        self.keep("after_validate", learn)

    def after_epoch(self, learn):
        self.keep("after_epoch", learn)


def by_hand(weights, decay):
    """The average of successive weights, starting with the first; `decay` is a function of the update."""
    average = weights[0].clone()
    for n, weight in enumerate(weights[1:]):
        average = average + (1 - decay(n)) * (weight - average)
    return average
