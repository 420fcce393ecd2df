"""The cheap checks of every fit: callbacks that run once and remove themselves."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import CancelBatch, CancelStep, ZeroGrad, on
from learner import Data, Learner
from learner.checks.preflight import EpochWatch, Preflight


def learner_of(n_batches: int = 3, **options) -> Learner:
    torch.manual_seed(0)
    options.setdefault("defaults", (ZeroGrad,))
    data = Data([(torch.ones(4, 1), torch.ones(4, 1))] * n_batches)
    return Learner(nn.Linear(1, 1), data, F.mse_loss, partial(torch.optim.SGD, lr=0.1), **options)


def preflights(events: dict) -> object:
    @on("after_batch")
    def note(learn):
        events[learn.epoch, learn.batch_idx] = Preflight in learn.callbacks

    return note


def test_the_preflight_removes_itself_after_the_first_batch_of_each_fit():
    seen = {}
    learn = learner_of(callbacks=[preflights(seen)])
    learn.fit(2)
    assert [key for key, there in seen.items() if there] == [(0, 0)]
    learn.fit(1)
    assert seen[0, 0]
    assert [each for each in learn.callbacks if type(each) in (Preflight, EpochWatch)] == []


def test_the_preflight_waits_for_a_batch_that_is_not_cancelled():
    @on("before_batch")
    def cancel(learn):
        if learn.batch_idx == 0:
            raise CancelBatch

    seen = {}
    learner_of(callbacks=[cancel, preflights(seen)]).fit(1)
    assert seen == {(0, 1): True, (0, 2): False}


def test_a_cancelled_step_does_not_keep_the_preflight():
    @on("before_step")
    def cancel(learn):
        raise CancelStep

    seen = {}
    learner_of(callbacks=[cancel, preflights(seen)]).fit(1)
    assert seen == {(0, 0): True, (0, 1): False, (0, 2): False}


def test_after_the_first_batch_no_check_listens_to_batch_events():
    kept = {}

    @on("after_batch")
    def note(learn):
        kept[learn.batch_idx] = [
            type(hook.__self__).__name__
            for event in ("before_batch", "after_pred", "after_loss", "before_step", "after_batch")
            for hook in learn.callbacks.hooks[event]
        ]

    learner_of(callbacks=[note]).fit(1)
    assert "Preflight" in kept[0]
    assert kept[1] == kept[2] == ["note"]


def test_the_checks_draw_no_random_numbers_and_change_no_number():
    with_checks = learner_of()
    torch.manual_seed(0)
    plain = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with_checks.fit(2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    for inputs, targets in list(with_checks.data.train) * 2:
        optimizer.zero_grad()
        F.mse_loss(plain(inputs), targets).backward()
        optimizer.step()
    assert torch.equal(with_checks.model.weight, plain.weight)


def test_a_fit_in_a_sandbox_is_checked_and_leaves_no_trace():
    learn = learner_of()
    with learn.sandbox():
        learn.fit(1)
    assert Preflight not in learn.callbacks


def test_the_number_of_batches_is_known_after_one_pass():
    known = []

    @on("before_train")
    def before(learn):
        known.append(learn.n_batches)

    @on("after_train")
    def after(learn):
        known.append(learn.n_batches)

    learn = learner_of()
    learn.data = Data(lambda: iter([(torch.ones(4, 1), torch.ones(4, 1))] * 2))
    learn.fit(1, callbacks=[before, after])
    assert known == [None, 2]
