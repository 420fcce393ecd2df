"""A callback's state is resumed wherever the callback creates it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny import line_batches
from torch import nn

from callbacks import Callback, Checkpoint, Order
from learner import Data


class Count(Callback):
    """A callback that counts the training items in an attribute that `before_fit` creates."""

    state: tuple[str, ...] = ("n",)

    def before_fit(self, learn):
        self.n = 0

    def after_batch(self, learn):
        if learn.training:
            self.n += learn.n_items


class InConstructor(Count):
    def __init__(self):
        self.n = 0


class InTrain(Count):
    """A callback that counts the items of each epoch."""

    def before_fit(self, learn): ...

    def before_train(self, learn):
        self.n = 0


class AtFirstEpochsEnd(Callback):
    state = ("n",)

    def after_epoch(self, learn):
        self.n = getattr(self, "n", 0) + 1


class ByProperty(Count):
    """A callback whose state is a property that reads what `before_fit` creates."""

    def before_fit(self, learn):
        self._counts = {"items": 0}

    @property
    def n(self):
        return self._counts["items"]

    @n.setter
    def n(self, n):
        self._counts["items"] = n


class OwnStateDict(Count):
    """A callback whose state can be read only after `before_fit`."""

    state = ()

    def before_fit(self, learn):
        self._sum = nn.Linear(1, 1, bias=False)
        self._sum.weight.data.zero_()

    def state_dict(self):
        return self._sum.state_dict()

    def load_state_dict(self, state):
        self._sum.load_state_dict(state)

    def after_batch(self, learn):
        if learn.training:
            self._sum.weight.data += learn.n_items

    @property
    def n(self):
        return self._sum.weight.item()


class Brings(Callback):
    """A callback that adds another one with state in `before_fit`."""

    order = Order.PREPARE

    def before_fit(self, learn):
        self._child = Count()
        learn.add_callbacks(self._child)

    def cleanup_fit(self, learn):
        learn.remove_callbacks(self._child)

    @property
    def n(self):
        return self._child.n


class Sandboxed(Count):
    def after_batch(self, learn):
        super().after_batch(learn)
        with learn.sandbox():
            self.n = -1


class Kill(Callback):
    def __init__(self, n_steps: int):
        self.n_steps = n_steps

    def after_step(self, learn):
        if learn.global_step == self.n_steps:
            raise ZeroDivisionError


KINDS = [Count, InConstructor, InTrain, AtFirstEpochsEnd, ByProperty, OwnStateDict, Brings, Sandboxed]


@pytest.mark.parametrize("n_steps", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_state_is_resumed_wherever_it_is_created(make_learner, tmp_path, kind, n_steps):
    def make(folder: str):
        data = Data(line_batches(3), line_batches(1))
        return make_learner(data=data, callbacks=[kind(), Checkpoint(tmp_path / folder, every="1 step")])

    whole = make("whole")
    whole.fit(2)
    with contextlib.suppress(ZeroDivisionError):
        make("run").fit(2, callbacks=[Kill(n_steps)])
    learn = make("run")
    learn.fit(2, resume="must")
    assert learn.callbacks[kind].n == whole.callbacks[kind].n
    assert torch.equal(learn.model.weight, whole.model.weight)


def test_a_missing_callback_that_was_added_in_mid_fit_is_reported(make_learner, tmp_path):
    class Late(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1 and Count not in learn.callbacks:
                learn.add_callbacks(Count())

    def make(*more):
        return make_learner(callbacks=[Checkpoint(tmp_path, every="1 step"), Late(), *more])

    with pytest.raises(ZeroDivisionError):
        make(Kill(5)).fit(3)
    with pytest.raises(ValueError, match="state of the callback 'count', which was added during the fit"):
        make().fit(3, resume="must")
    make().fit(3, resume="must", allow=("callbacks",))


def test_a_state_that_a_callback_refuses_is_still_an_error(make_learner, tmp_path):
    class Refuses(Count):
        def load_state_dict(self, state):
            if state:
                raise ValueError("not this")

    def make(*more):
        return make_learner(callbacks=[Checkpoint(tmp_path, every="1 step"), Refuses(), *more])

    with pytest.raises(ZeroDivisionError):
        make(Kill(2)).fit(1)
    with pytest.raises(ValueError, match="not this"):
        make().fit(1, resume="must")


def test_state_that_could_not_be_loaded_is_refused_when_the_class_is_defined():
    with pytest.raises(TypeError, match="a property without a setter"):

        class ReadOnly(Callback):
            state = ("n",)

            @property
            def n(self):
                return 1


def test_a_callback_whose_state_before_fit_creates_can_be_sandboxed_before_its_first_fit(make_learner):
    learn = make_learner(callbacks=[OwnStateDict()])
    with learn.sandbox():
        learn.fit(1)
    learn.fit(1)
    assert learn.callbacks[OwnStateDict].n == 12


def test_a_callback_whose_state_before_fit_creates_can_be_saved_before_its_first_fit(make_learner, tmp_path):
    path = make_learner(callbacks=[OwnStateDict()]).save(tmp_path / "new.pt")
    learn = make_learner(callbacks=[OwnStateDict()])
    learn.load(path)
    learn.fit(1)
    assert learn.callbacks[OwnStateDict].n == 12
