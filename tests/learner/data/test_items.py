"""The number of items of a batch of any kind, and of those that are trained."""

from __future__ import annotations

import warnings
from collections import UserDict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence

from callbacks import (
    CancelBatch,
    CancelEpoch,
    CancelStep,
    Checkpoint,
    GradientAccumulation,
    LearnerWarning,
    MixedPrecision,
    StopOnNaN,
    When,
    on,
)
from learner import Data, Learner
from learner.data.items import n_items_of

SGD = partial(torch.optim.SGD, lr=0.05)


class Any(nn.Module):
    """A model that multiplies a function of its inputs by a weight."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(()))

    def forward(self, *inputs, **named):
        return self.function(*inputs, **named) * self.weight


def graph(n_graphs: int, n_nodes: int, **more):
    """Some graphs in one object, as graph libraries make them."""
    return SimpleNamespace(x=torch.rand(n_nodes, 3), edge_index=torch.zeros(2, 7).long(), **more)


def fitted(function, batches, loss_func=F.mse_loss, callbacks=(), **options) -> Learner:
    learn = Learner(Any(function), Data(batches, **options), loss_func, SGD, callbacks)
    learn.fit(1)
    return learn


PICTURES = [torch.rand(3, 4 + n, 5) for n in range(4)]
PACKED = pack_sequence([torch.ones(3, 2), torch.ones(2, 2), torch.ones(1, 2)])


@pytest.mark.parametrize(
    ("inputs", "targets", "n_items"),
    [
        ((PICTURES,), torch.rand(4), 4),
        ((tuple(PICTURES),), tuple({"boxes": torch.rand(n, 4)} for n in range(1, 5)), 4),
        ((PICTURES[:1],), None, 1),
        (([torch.rand(5, 3), torch.rand(5, 2)],), torch.rand(5), 5),
        ((torch.rand(9, 4, 3),), torch.rand(4), 4),
        ((torch.rand(4, 3),), torch.rand(9, 4), 4),
        ({"mask": torch.ones(6, 6), "x": torch.rand(4, 6)}, torch.rand(4), 4),
        ({"mask": torch.ones(6, 6), "x": torch.rand(4, 6), "y": torch.rand(4)}, None, 4),
        (UserDict(input_ids=torch.ones(4, 9).long()), torch.ones(4, 9).long(), 4),
        ((graph(4, 11),), torch.rand(4), 4),
        ((graph(4, 11, num_graphs=4),), None, 4),
        ((torch.rand(11, 3), torch.zeros(2, 7).long()), torch.rand(4), 4),
        ((PACKED,), torch.rand(3), 3),
        ((PACKED,), PACKED, 3),
        ((PACKED,), None, 3),
        ((), torch.rand(4), 4),
        ((torch.rand(4, 3),), torch.tensor(1.0), 4),
        ((torch.rand(4, 9),), torch.rand(36), 36),
        ((torch.rand(4, 3),), ["cat", "dog", "cat", "cow"], 4),
        ((torch.rand(4, 3),), [{"boxes": torch.rand(2, 4)}] * 4, 4),
        ((torch.rand(4, 3),), (torch.rand(4), torch.rand(4, 2)), 4),
        ((torch.rand(4, 3), torch.rand(7, 3)), None, 4),
        ((torch.rand(4, 3),), np.zeros(4), 4),
        ((torch.rand(37, 3),), torch.rand(1), 1),
    ],
)
def test_items_are_counted_whatever_holds_them(inputs, targets, n_items):
    assert n_items_of(inputs, targets) == n_items


def test_the_mean_loss_and_the_samples_are_those_of_the_pictures_in_lists():
    y = torch.rand(4)
    batches = [(PICTURES[:3], y[:3]), (PICTURES[3:], y[3:])]

    def compare(preds, targets):
        return (preds - targets).square().mean()

    learn = fitted(lambda images: torch.stack([each.mean() for each in images]), batches, compare)
    assert learn.n_samples == 4
    with torch.no_grad():
        right = compare(learn.model(PICTURES), y).item()
    assert learn.validate(batches)["valid_loss"] == pytest.approx(right)


def test_a_model_without_inputs_has_as_many_items_as_targets():
    learn = fitted(lambda: torch.zeros(4), [torch.ones(4)] * 2, split=lambda y: ((), y))
    assert learn.n_samples == 8


def test_a_function_decides_how_many_items_a_batch_has():
    batches = [(torch.rand(9, 4, 3), torch.rand(9, 4, 3)), (torch.rand(9, 2, 3), torch.rand(9, 2, 3))]
    learn = fitted(lambda x: x, batches, n_items=lambda batch: batch[0].shape[1])
    assert learn.n_samples == 6


@pytest.mark.parametrize("number", [2.5, None, -1, True])
def test_a_number_of_items_that_is_not_a_whole_one_is_refused(number):
    with pytest.raises(TypeError, match=r"Data\(n_items=.*return its number of items"):
        fitted(lambda x: x, [(torch.rand(4, 3), torch.rand(4, 3))], n_items=lambda batch: number)


def test_what_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match="pass a function"):
        Data([torch.ones(4)], n_items=4)


@pytest.mark.parametrize(
    ("function", "inputs", "targets"),
    [
        (lambda x: x[:4, 0], torch.rand(7, 3), torch.rand(4)),  # a bag, or both halves of pairs
        (lambda x: x.mean((0, 2)), torch.rand(9, 4, 3), torch.rand(4)),
        (lambda x: x.flatten(), torch.rand(4, 9), torch.rand(36)),
        (lambda x: x.mean(), torch.rand(4, 3), torch.tensor(1.0)),
        (lambda x: x.mean((1, 2, 3)), torch.rand(4, 3, 5, 5), torch.rand(4)),
        (lambda x: x[:2], torch.rand(4, 1), torch.rand(2, 1)),
    ],
)
def test_lengths_that_differ_on_purpose_raise_no_warning(function, inputs, targets):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        fitted(function, [(inputs, targets)])


def test_one_target_per_graph_with_many_nodes_raises_no_warning():
    batch = graph(4, 11, y=torch.rand(4), num_graphs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn = fitted(lambda g: g.x[:4, 0], [batch], split=lambda g: (g, g.y))
        fitted(lambda x, edges: x[:4, 0], [(batch.x, batch.edge_index, batch.y)], n_inputs=2)
    assert learn.n_samples == 4


def test_several_views_of_each_item_raise_no_warning():
    def contrast(preds, _):
        return F.cross_entropy(preds @ preds.T, torch.arange(8).roll(4))

    data = Data(
        [([torch.rand(4, 3), torch.rand(4, 3)], torch.arange(4))],
        split=lambda batch: (torch.cat(batch[0]), batch[1]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn = Learner(nn.Linear(3, 2), data, contrast, SGD)
        learn.fit(1)
    assert learn.n_samples == 4


def test_sequences_of_different_lengths_raise_one_warning_with_the_fix():
    batches = [(torch.rand(9, 4, 3), torch.rand(7, 4, 3))]

    def make(**options):
        return Learner(Any(lambda x: x[:7]), Data(batches, **options), F.mse_loss, SGD)

    learn = make()
    with pytest.warns(
        LearnerWarning, match=r"9 items according to its inputs and 7 .*n_items=lambda"
    ) as seen:
        learn.fit(1)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)
        make(n_items=lambda batch: batch[0].shape[1]).fit(1)


def test_sets_of_points_with_one_number_each_raise_one_warning_with_the_fix():
    batches = [(torch.rand(n, 3), torch.tensor(1.0)) for n in (7, 4)]
    with pytest.warns(LearnerWarning, match=r"use 7, the length of its inputs.*n_items=lambda batch: 1"):
        fitted(lambda x: x.sum(0)[:1], batches, lambda preds, target: (preds - target).square().mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn = fitted(lambda x: x.sum(0)[:2].mean(), batches, n_items=lambda batch: 1)
    assert learn.n_samples == 2


@pytest.mark.parametrize("function", [lambda x: x[:, 0], lambda x: torch.cat([x, x]), lambda x: x.mean()])
@pytest.mark.parametrize("n_rows", [1, 4])
def test_one_number_for_all_items_raises_no_warning(function, n_rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        fitted(function, [(torch.rand(n_rows, 3), torch.tensor(1.0))], lambda x, y: (x - y).square().mean())


# Which samples count

BATCHES = [(torch.rand(n, 3), torch.rand(n, 3)) for n in (4, 3, 2)]


def at(batch_idx: int, event: str, error: type[Exception]):
    """A callback that raises an error at an event of one batch."""

    @on(event)
    def cancel(learn):
        if learn.batch_idx == batch_idx and learn.training:
            raise error

    return cancel


@pytest.mark.parametrize(
    ("callbacks", "n_samples"),
    [
        ([at(1, "before_batch", CancelBatch)], 6),
        ([at(1, "after_loss", CancelBatch)], 6),
        ([at(1, "after_backward", CancelBatch)], 6),
        ([at(1, "after_backward", CancelEpoch)], 4),
        ([at(1, "before_step", CancelStep)], 9),  # its gradients add to those of the third
        ([at(2, "before_step", CancelStep)], 7),
        ([GradientAccumulation(2)], 9),
        ([GradientAccumulation(2), at(1, "before_backward", CancelBatch)], 2),
        ([GradientAccumulation(2), at(2, "after_backward", CancelEpoch)], 7),
    ],
)
def test_samples_are_those_that_contributed_to_an_update(callbacks, n_samples):
    assert fitted(lambda x: x, BATCHES, callbacks=callbacks).n_samples == n_samples


def test_gradients_that_were_dropped_with_their_update_do_not_count():
    @on("before_step")
    def leave_out(learn):
        if learn.batch_idx == 1:
            learn.optimizer.zero_grad()
            raise CancelStep

    assert fitted(lambda x: x, BATCHES, callbacks=[leave_out]).n_samples == 6


def test_updates_that_overflow_do_not_count():
    halves = MixedPrecision("fp16", init_scale=2.0**40)
    learn = Learner(nn.Linear(3, 3), Data(BATCHES), F.mse_loss, SGD, [halves])
    with pytest.warns(LearnerWarning):
        learn.fit(1)
    assert learn.n_samples == learn.global_step == 0


def test_a_batch_that_is_skipped_for_nan_does_not_count():
    batches = [*BATCHES, (torch.full((5, 3), torch.nan), torch.rand(5, 3))]
    with pytest.warns(LearnerWarning, match="skipped"):
        learn = fitted(lambda x: x, batches, callbacks=[StopOnNaN(skip=1)])
    assert learn.n_samples == 9


def test_samples_that_wait_for_their_update_are_counted_after_a_resume(tmp_path):
    @on("after_batch")
    def interrupt(learn):
        if learn.batch_idx == 0 and not learn.resumed:
            learn.interrupted = "the test"

    def make():
        torch.manual_seed(0)
        saves = Checkpoint(every="1 epoch", folder=tmp_path)
        return Learner(Any(lambda x: x), Data(BATCHES), F.mse_loss, SGD, [GradientAccumulation(3), saves])

    learn = make()
    learn.fit(1, callbacks=[interrupt])
    assert learn.n_samples == 0
    learn = make()
    learn.fit(1, resume="must")
    assert learn.n_samples == 9


def test_intervals_of_samples_count_those_that_wait_for_their_update():
    seen = []

    @on("before_batch")
    def note(learn):
        seen.append(learn.batch_idx)

    batches = [(torch.rand(4, 3), torch.rand(4, 3))] * 6
    fitted(lambda x: x, batches, callbacks=[GradientAccumulation(3), When(note, every="8 samples")])
    assert seen == [1, 3, 5]
