"""Gradients and updates of each parameter, compared with a hand-written loop and numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, CancelStep, GradientFlow, Order, WeightUpdates

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


def by_hand(n_steps: int) -> list[tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]]:
    """Gradients, weights before and weights after each step of a plain loop."""
    model, found = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in (line_batches(3) * n_steps)[:n_steps]:
        F.mse_loss(model(inputs), targets).backward()
        before = [each.detach().numpy().copy() for each in model.parameters()]
        gradients = [each.grad.numpy().copy() for each in model.parameters()]
        optimizer.step()
        found.append((gradients, before, [each.detach().numpy().copy() for each in model.parameters()]))
        optimizer.zero_grad()
    return found


class Accumulate(Callback):
    order = Order.DECIDE  # called after what measures

    def before_step(self, learn):
        if learn.batch_idx % 3 < 2:
            raise CancelStep


def test_norms_means_and_maxima_are_those_of_a_loop_by_hand(make_learner):
    flow = GradientFlow()
    make_learner(model=make_model(), callbacks=[flow]).fit(2)
    assert flow.parameter_names == NAMES
    assert flow.steps == [1, 2, 3, 4, 5, 6]
    for n, (gradients, _, _) in enumerate(by_hand(6)):
        assert flow.norms[n].numpy() == pytest.approx([np.linalg.norm(g) for g in gradients], rel=1e-4)
        assert flow.means[n].numpy() == pytest.approx([np.abs(g).mean() for g in gradients], rel=1e-4)
        assert flow.maxima[n].numpy() == pytest.approx([np.abs(g).max() for g in gradients], rel=1e-4)


def test_the_ratios_equal_those_of_a_loop_by_hand(make_learner):
    updates = WeightUpdates()
    make_learner(model=make_model(), callbacks=[updates]).fit(2)
    assert updates.parameter_names == ["0.weight", "2.weight"]
    for n, (gradients, before, _) in enumerate(by_hand(6)):
        for k, place in enumerate([0, 2]):  # his line: ((lr * p.grad).std() / p.data.std()).log10()
            expected = np.log10((0.1 * gradients[place]).std(ddof=1) / before[place].std(ddof=1))
            assert updates.ratios[n, k] == pytest.approx(expected, rel=1e-4)


def test_momentum_and_decay_belong_to_the_update(make_learner):
    updates = WeightUpdates("0.weight")
    learn = make_learner(model=make_model(), callbacks=[updates])
    learn.optimizer = torch.optim.AdamW(learn.model.parameters(), lr=0.1)
    weights = [learn.model[0].weight.detach().clone()]

    class Keep(Callback):
        def after_step(self, learn):
            weights.append(learn.model[0].weight.detach().clone())

    learn.fit(1, callbacks=[Keep()])
    expected = [math.log10((b - a).std() / a.std()) for a, b in pairwise(weights)]
    assert updates.ratios[:, 0].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("callback", [GradientFlow, WeightUpdates])
def test_only_steps_that_were_made_are_recorded_and_only_each_nth(make_learner, callback):
    found = callback(every="2 steps")
    make_learner(model=make_model(), callbacks=[found, Accumulate()]).fit(5)
    assert found.steps == [2, 4]


def test_of_accumulated_gradients_their_sum_is_recorded(make_learner):
    flow = GradientFlow("0.weight")
    learn = make_learner(model=make_model(), callbacks=[flow, Accumulate()])
    learn.fit(1)
    model = make_model()
    for inputs, targets in line_batches(3):
        F.mse_loss(model(inputs), targets).backward()
    assert flow.norms[0, 0] == pytest.approx(model[0].weight.grad.norm().item())


def test_frozen_parameters_have_nan_and_sparse_gradients_are_measured_whole(make_learner):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(10, 2, sparse=True), nn.Linear(2, 1)
            self.head.weight.requires_grad_(False)

        def forward(self, x):
            return self.head(self.words((9 * x[:, 0]).long()))

    flow, norms = GradientFlow(), []

    class Keep(Callback):
        def after_step(self, learn):
            gradient = learn.model.words.weight.grad.to_dense()
            norms.append([gradient.norm(), gradient.abs().mean(), gradient.abs().max()])

    make_learner(model=Words(), callbacks=[flow, Keep()]).fit(1)
    assert flow.norms[:, 1].isnan().all()
    found = torch.stack([flow.norms[:, 0], flow.means[:, 0], flow.maxima[:, 0]], 1)
    torch.testing.assert_close(found, torch.tensor(norms))


def test_weights_that_do_not_move_are_minus_infinity_and_weights_without_spread_infinity(make_learner):
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))
    nn.init.constant_(model[0].weight, 1.0)
    model[1].weight.requires_grad_(False)
    updates = WeightUpdates(every="3 steps")
    make_learner(model=model, callbacks=[updates]).fit(1)
    assert updates.ratios[0, 1] == -math.inf
    updates = WeightUpdates()
    nn.init.constant_(model[0].weight, 1.0)
    make_learner(model=model, callbacks=[updates]).fit(1)
    assert updates.ratios[0, 0] == math.inf
    assert len(updates.plot().get_lines()) == 2  # nothing is drawn of the weight that did not move


@pytest.mark.parametrize("callback", [GradientFlow, WeightUpdates])
def test_invalid_settings_are_refused(callback, make_learner):
    with pytest.raises(
        ValueError, match=f"{callback.__name__}.every='1 epoch'.: every must be a whole number of steps"
    ):
        callback(every="1 epoch")
    with pytest.raises(TypeError, match="pass one or more names"):
        callback([])
    with pytest.raises(ValueError, match=r"has no 'head.\*'. Available: weight, bias"):
        make_learner(callbacks=[callback("head.*")]).fit(1)
    with pytest.raises(ValueError, match="has recorded nothing yet: fit for 1 step or more"):
        callback().plot()


def test_the_pictures_show_what_was_recorded(make_learner):
    flow, updates = GradientFlow(), WeightUpdates()
    make_learner(model=make_model(), callbacks=[flow, updates]).fit(3)
    ax = flow.plot()
    labels = ["0.weight Linear", "0.bias Linear", "2.weight Linear", "2.bias Linear"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == labels
    largest = ax.collections[0].get_segments()[0][:, 0].max()
    assert largest == pytest.approx(flow.maxima[:, 0].max().item())
    assert flow.plot_steps().get_lines()[1].get_ydata() == pytest.approx(flow.norms[:, 1].numpy())
    lines = updates.plot().get_lines()
    assert lines[0].get_ydata() == pytest.approx(updates.ratios[:, 0].numpy())
    assert list(lines[-1].get_ydata()) == [-3, -3]
