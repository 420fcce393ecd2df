"""A copy of a learner is independent of the original."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch

from callbacks import Callback, EarlyStopping, When
from learner import Learner


class Count(Callback):
    """A callback that counts batches with hooks of all kinds."""

    state = ("n",)

    def __init__(self):
        self.n, self.seen = 0, []

    def after_batch(self, learn):
        self.n += 1

    def note(self, word, learn):
        self.seen.append(word)

    after_epoch = functools.partialmethod(note, "epoch")

    @staticmethod
    def after_fit(learn):
        learn.callbacks.count.seen.append("fit")


class Scaled(Learner):
    def compute_loss(self):
        super().compute_loss()
        self.loss_grad = self.loss_grad * 2


def copied(learn):
    return pickle.loads(pickle.dumps(learn))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, copied])
@pytest.mark.parametrize("n_before", [0, 2])
def test_a_copy_trains_with_its_own_callbacks_and_gives_the_result_of_the_original(
    make_learner, make_copy, n_before
):
    stopping = When(EarlyStopping("train_loss", patience=9), start="1 epoch")
    learn = make_learner(valid=False, callbacks=[Count(), stopping])
    learn.fit(n_before)
    n, seen, weight = learn.callbacks.count.n, list(learn.callbacks.count.seen), learn.model.weight.clone()
    other = make_copy(learn)
    other.fit(2)
    assert (learn.callbacks.count.n, learn.callbacks.count.seen) == (n, seen)
    assert torch.equal(learn.model.weight, weight)
    assert other.callbacks.count.seen == [*seen, "epoch", "epoch", "fit"]
    assert len(learn.history) == n_before
    learn.fit(2)
    assert torch.equal(learn.model.weight, other.model.weight)
    assert learn.callbacks.count.n == other.callbacks.count.n
    assert other.optimizer.param_groups[0]["params"][0] is other.model.weight


def test_a_copy_of_a_subclass_keeps_its_operations(make_learner):
    plain = make_learner()
    learn = Scaled(plain.model, plain.data, plain.loss_func, functools.partial(torch.optim.SGD, lr=0.1))
    learn.label = "mine"
    other = copied(learn)
    learn.fit(1)
    other.fit(1)
    assert torch.equal(learn.model.weight, other.model.weight)
    assert (type(other), other.label) == (Scaled, "mine")


def test_a_copy_during_a_fit_is_refused_with_the_way_to_do_it(make_learner):
    class Copy(Callback):
        def after_batch(self, learn):
            copy.deepcopy(learn)

    with pytest.raises(RuntimeError, match=r"in the middle of a fit.*learn\.snapshot\(\)"):
        make_learner(callbacks=[Copy()]).fit(1)


def test_a_learner_whose_fit_failed_can_be_copied(make_learner):
    class Fail(Callback):
        def after_batch(self, learn):
            raise ZeroDivisionError

    learn = make_learner()
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[Fail()])
    assert copied(learn).error is None
