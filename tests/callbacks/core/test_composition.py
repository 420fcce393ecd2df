"""The part of the list of callbacks that the loop reads, and callbacks as objects: equal, copied, pickled."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from ground.tagged import Probe

from callbacks import (
    MAE,
    Callback,
    Callbacks,
    DevicePlacement,
    Metrics,
    Recorder,
    StopOnNaN,
    ZeroGrad,
    on,
)

# The loop's view


def test_cleanup_runs_in_reverse_order():
    class Cleans(Callback):
        def before_fit(self, learn):
            learn.append(self.name)

        def cleanup_fit(self, learn):
            learn.append(self.name)

    callbacks = Callbacks([Cleans(name="a"), Cleans(name="b")])
    called = []
    for event in ("before_fit", "cleanup_fit"):
        for hook in callbacks.hooks[event]:
            hook(called)
    assert called == ["a", "b", "b", "a"]


def test_only_callbacks_that_implement_the_event_are_called():
    callbacks = Callbacks([Probe(), Recorder()])
    assert [hook.__self__.name for hook in callbacks.hooks["after_epoch"]] == ["probe", "recorder"]
    assert callbacks.hooks["before_step"] == ()


@pytest.mark.filterwarnings("ignore:functools.partial will be a method")  # Python 3.13 and later
@pytest.mark.parametrize("kind", ["static", "class", "partial"])
def test_an_error_in_a_hook_of_any_kind_names_its_callback(kind, make_learner):
    def fail(*args):
        raise RuntimeError("mine")

    hooks = {"static": staticmethod(fail), "class": classmethod(fail), "partial": partial(fail, 1)}
    broken = type("Broken", (Callback,), {"after_batch": hooks[kind]})
    with pytest.raises(RuntimeError, match="mine") as caught:
        make_learner(callbacks=[broken]).fit(1)
    assert any("Broken" in note and "after_batch" in note for note in caught.value.__notes__)


# Callbacks as objects


@dataclass
class Settings(Callback):
    patience: int = 3

    def after_epoch(self, learn):
        self.seen = learn.epoch


def test_data_classes_can_be_callbacks_and_equal_ones_are_two(make_learner):
    one, other = Settings(), Settings()
    other.name = "other"
    assert one == other
    learn = make_learner(callbacks=[one])
    with learn.added(other):
        learn.fit(2)
    assert list(learn.callbacks).count(one) == 1
    assert (one.seen, other.seen) == (1, 1)
    assert one in learn.callbacks
    learn.remove_callbacks(one)
    assert Settings not in learn.callbacks


CALLBACKS = [
    ZeroGrad(),
    DevicePlacement("cpu"),
    StopOnNaN(),
    Metrics(MAE(), on="both"),
    Recorder(),
    Probe("x"),
]


@pytest.mark.parametrize("callback", CALLBACKS, ids=lambda callback: callback.name)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))]
)
def test_callbacks_can_be_copied_and_pickled_before_and_after_a_fit(callback, duplicate, make_learner):
    for _ in range(2):
        again = duplicate(callback)
        assert type(again) is type(callback)
        assert repr(again) == repr(callback)
        defaults = () if isinstance(again, ZeroGrad) else (ZeroGrad,)
        make_learner(callbacks=[again], defaults=defaults).fit(1)
        callback = again


def test_a_callback_from_a_function_can_be_copied(make_learner):
    seen = []

    @on("after_epoch")
    def keep(learn):
        seen.append(learn.epoch)

    make_learner(callbacks=[copy.deepcopy(keep)]).fit(1)
    assert seen == [0]


def test_a_composition_can_be_copied_with_its_own_callbacks():
    callbacks = Callbacks([Probe("x"), Metrics()])
    for again in (copy.deepcopy(callbacks), pickle.loads(pickle.dumps(callbacks))):
        assert repr(again) == repr(callbacks)
        assert again.probe is not callbacks.probe
        assert again.hooks["after_epoch"][0].__self__ is again.probe


def test_torch_saves_what_a_callback_declares(tmp_path):
    class Keeps(Callback):
        state = ("best",)

    keeps = Keeps()
    assert keeps.state_dict() == {}
    keeps.best = torch.ones(2)
    torch.save(keeps.state_dict(), tmp_path / "state.pt")
    other = Keeps()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.best, keeps.best)
    with pytest.raises(ValueError, match=r"Keeps declares state \('best',\), but also received \['wait'\]"):
        other.load_state_dict({"wait": 1})
