"""State that a fit keeps from the previous one, and values that hooks can read before the first batch."""

from __future__ import annotations

import copy

import pytest
from torch.nn import functional as F

from callbacks import Callback, CancelFit


def notes_of(error):
    return " ".join(error.__notes__)


class Fails(Callback):
    def before_fit(self, learn):
        raise RuntimeError("mine")


def test_an_error_at_the_start_of_a_fit_names_no_batch_of_the_fit_before(learn):
    class FailsInBatch(Callback):
        def after_loss(self, learn):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError) as first:
        learn.fit(1, callbacks=[FailsInBatch()])
    with pytest.raises(RuntimeError) as second:
        learn.fit(1, callbacks=[Fails()])
    assert "batch" in notes_of(first.value)
    assert "batch" not in notes_of(second.value)


def test_an_error_after_a_cancelled_fit_names_no_batch(learn):
    class CancelsAndFails(Callback):
        def after_loss(self, learn):
            raise CancelFit

        def after_fit(self, learn):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError) as caught:
        learn.fit(1, callbacks=[CancelsAndFails()])
    assert "batch" not in notes_of(caught.value)


def test_each_epoch_starts_with_empty_results(learn):
    found = []

    class Looks(Callback):
        def before_epoch(self, learn):
            found.append(dict(learn.results))

    learn.fit(2, callbacks=[Looks()])
    assert found == [{}, {}]
    assert learn.results != {}


def test_a_copy_can_validate_before_its_first_fit(learn):
    learn.fit(1)
    assert copy.deepcopy(learn).validate() == learn.validate()


def test_a_learner_reports_whether_a_callback_computes_the_loss(learn):
    class OwnLoss(Callback):
        def compute_loss(self, learn):
            learn.loss_grad = F.l1_loss(learn.preds, learn.targets)

    assert not learn.loss_is_overridden
    with learn.added(OwnLoss()):
        assert learn.loss_is_overridden
    assert not learn.loss_is_overridden
