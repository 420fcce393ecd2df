"""Learners whose resumes are verified in child processes, which import this file."""

from __future__ import annotations

from functools import partial

from resumed import in_memory, make, shuffled

from callbacks import Callback
from learner import Learner


class Hidden(Callback):
    """A callback that changes the loss by a number that it does not declare."""

    n = 0

    def before_backward(self, learn):
        self.n += 1
        learn.loss_grad = learn.loss_grad * (1 + self.n)


def sound() -> Learner:
    return make(data=in_memory)


def unsound() -> Learner:
    return make(data=in_memory, callbacks=(Hidden(),))


def broken() -> Learner:
    raise RuntimeError("no such file")


def with_workers() -> Learner:
    return make(data=partial(shuffled, num_workers=2))
