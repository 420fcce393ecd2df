"""WholeStep in fits that are resumed, continued or repeated, and programs that are kept."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import NamedTuple

import pytest
import torch
from compiled_steps import ADAM, MOMENTUM, assert_close, by_hand, counting, doubles, fitted, learner_of
from resumed import Crash
from tiny import title_of
from torch import nn
from torch.nn import functional as F

from callbacks import Checkpoint, WholeStep, ZeroGrad
from learner import Data


@pytest.mark.parametrize("at", [1, 2, 3, 6])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_an_interrupted_fit_that_is_resumed_ends_with_the_same_bits(make, at, tmp_path):
    def learner(folder):
        batches = [*doubles(3), tuple(each[:2] for each in doubles(1)[0])]
        return learner_of(Checkpoint(tmp_path / folder, "1 step"), optimizer=make, data=batches)

    whole = learner("whole")
    whole.fit(2)
    with pytest.raises(ZeroDivisionError):
        learner("resumed").fit(2, callbacks=[Crash(at)])
    learn = learner("resumed")
    learn.fit(2, resume="auto")
    for one, other in zip(learn.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [(WholeStep, ZeroGrad), (ZeroGrad, WholeStep)])
def test_a_fit_resumes_with_the_callback_or_without(steps):
    model, optimizer = by_hand(ADAM, n_epochs=4)
    first, second = (each("eager") if each is WholeStep else each() for each in steps)
    learn = learner_of(step=first, optimizer=ADAM)
    learn.fit(2)
    learn.remove_callbacks(first)
    learn.add_callbacks(second)
    learn.fit(2)
    assert_close(learn.model.state_dict(), model.state_dict())
    assert_close(learn.optimizer.state_dict(), optimizer.state_dict())


def test_programs_are_kept_for_the_next_fit():
    made = []
    learn = learner_of(step=WholeStep(counting(made)), optimizer=ADAM)
    for _ in range(3):
        fitted(learn, 1)
    model, optimizer = by_hand(ADAM)
    assert len(made) == 1
    assert learn.callbacks[WholeStep].compile_seconds == 0
    assert_close(learn.model.state_dict(), model.state_dict())
    assert_close(learn.optimizer.state_dict(), optimizer.state_dict())


class Answer(NamedTuple):
    preds: torch.Tensor
    loss: torch.Tensor


class Answering(nn.Linear):
    """A model that computes its own loss from its inputs."""

    def forward(self, input):  # noqa: A002
        preds = super().forward(input)
        return Answer(preds, F.mse_loss(preds, 2 * input))


def test_a_model_that_computes_its_own_loss_keeps_its_programs_too():
    made = []
    learn = learner_of(step=WholeStep(counting(made)), model=Answering(1, 1).double(), loss_func=None)
    ordinary = learner_of(step=ZeroGrad(), model=copy.deepcopy(learn.model), loss_func=None)
    for each in (learn, ordinary):
        each.fit(1)
        each.fit(1)
    assert len(made) == 1
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())


def test_a_program_that_a_fit_has_not_used_is_released():
    made = []
    learn = learner_of(step=WholeStep(counting(made)))
    for data in (doubles(), doubles(4, 2), doubles()):
        learn.data = Data(data)
        learn.fit(1)
    assert len(made) == 3


FACTOR = 1.0


class Scaled(nn.Linear):
    def forward(self, input):  # noqa: A002
        return FACTOR * super().forward(input)


def test_an_outdated_program_of_an_earlier_fit_is_compiled_again(monkeypatch):
    made = []
    learn = learner_of(step=WholeStep(counting(made)), model=Scaled(1, 1).double())
    ordinary = learner_of(step=ZeroGrad(), model=copy.deepcopy(learn.model))
    for factor in (1.0, 2.0):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        for each in (learn, ordinary):
            each.fit(1)
    assert len(made) == 2
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())


def test_a_callback_that_outlives_its_learner_keeps_no_model():
    whole = WholeStep("eager")
    learn = learner_of(step=whole)
    learn.fit(1)
    gone = weakref.ref(learn.model), weakref.ref(learn.model[0].weight), weakref.ref(learn.optimizer)
    del learn
    gc.collect()
    assert [each() for each in gone] == [None, None, None]


def test_a_callback_can_be_used_by_several_learners_copied_and_pickled():
    whole = WholeStep("eager")
    for _ in range(2):
        learn = fitted(learner_of(step=whole))
        assert_close(learn.model.state_dict(), by_hand(MOMENTUM)[0].state_dict())
        for other in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
            again = fitted(learner_of(step=other))
            assert_close(again.model.state_dict(), learn.model.state_dict())
