"""Validation, prediction, snapshots and sandboxes of a learner."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Callback, on
from learner import Data, Learner


def weights(learn: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def test_a_fit_and_each_pass_begin_at_epoch_and_batch_0(make_learner):
    begun = []

    class Begun(Callback):
        def before_fit(self, learn):
            begun.append(learn.epoch)

        def before_train(self, learn):
            begun.append((learn.epoch, learn.batch_idx))

        before_validate = before_train

    learn = make_learner(callbacks=[Begun()])
    learn.fit(2)
    assert begun == [0, (0, 0), (0, 0), (1, 0), (1, 0)]
    begun.clear()
    learn.fit(1)
    assert begun == [0, (0, 0), (0, 0)]


def test_validate_does_not_change_weights_counters_or_results(learn):
    learn.fit(1)
    before = (
        weights(learn),
        learn.epoch,
        learn.global_step,
        dict(learn.results),
        learn.training,
        learn.batch,
    )
    found = learn.validate()
    assert found == {"valid_loss": learn.history[-1]["valid_loss"]}
    after = (weights(learn), learn.epoch, learn.global_step, dict(learn.results), learn.training, learn.batch)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_validate_during_a_fit_does_not_change_the_fit(make_learner):
    @on("after_batch")
    def look(learn):
        if learn.training:
            learn.validate()

    plain, looked = make_learner(), make_learner(callbacks=[look])
    plain.fit(2)
    looked.fit(2)
    assert torch.equal(weights(plain), weights(looked))
    assert plain.history["train_loss"] == looked.history["train_loss"]


def test_validation_does_not_use_the_random_numbers_of_training(make_learner):
    def fitted(valid, look):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        items, others = (TensorDataset(torch.rand(8, 1), torch.rand(8, 1)) for _ in range(2))
        train = DataLoader(items, 2, shuffle=True)
        learn = make_learner(model=model, data=Data(train, DataLoader(others, 4) if valid else None))
        torch.manual_seed(1)
        learn.fit(1)
        if look:
            learn.validate(DataLoader(items, 4))
            learn.get_preds(DataLoader(items, 4))
            learn.predict(items.tensors[0])
        learn.fit(1)
        return weights(learn)

    assert torch.equal(fitted(False, False), fitted(True, False))
    assert torch.equal(fitted(False, False), fitted(True, True))


def draws_beside(learn, loss, n_between: int) -> list[tuple[float, ...]]:
    """Numbers drawn in turn with validation; `loss` draws there, unless it is None."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = []
    for _ in range(5):
        if loss is not None:
            learn.loss_func = loss
            learn.validate()
        np.random.randn(n_between)
        found.append((random.random(), random.gauss(0, 1), np.random.rand(), float(torch.rand(()))))
    return found


@pytest.mark.parametrize("n_between", [0, 1, 2])  # NumPy draws normal numbers in pairs, and keeps the second
@pytest.mark.parametrize(
    "draw",
    [
        lambda: None,
        lambda: np.random.randn(),
        lambda: np.random.randn(3),
        lambda: (np.random.rand(), random.random(), torch.rand(2)),
        lambda: np.random.randn() if torch.rand(()) > 0.5 else random.gauss(0, 1),
        lambda: np.random.seed(3),
    ],
)
def test_code_in_validation_may_draw_from_any_generator_and_changes_none(make_learner, draw, n_between):
    def loss(preds, targets):
        draw()
        return F.mse_loss(preds, targets)

    learn = make_learner(data=Data(line_batches(), line_batches()))
    assert draws_beside(learn, loss, n_between) == draws_beside(learn, None, n_between)


def test_iterating_over_the_training_data_does_not_change_its_next_order(make_learner):
    def orders(look):
        data = Data.from_tensors(torch.arange(8.0)[:, None], torch.zeros(8, 1), 4, valid=None, seed=0)
        learn, seen = make_learner(data=data), []

        @on("before_batch")
        def note(learn):
            if learn.training:
                seen.append(learn.inputs[0].flatten().tolist())

        learn.fit(1, callbacks=[note])
        if look:
            learn.validate(data.train)
            learn.get_preds(data.train)
        learn.fit(1, callbacks=[note])
        return seen

    assert orders(look=True) == orders(look=False)


def test_predict_returns_the_output_of_the_model_in_evaluation_mode(make_learner):
    learn = make_learner(model=nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    inputs = torch.rand(5, 1)
    expected = learn.model.eval()(inputs).detach()
    learn.model.train()
    assert torch.equal(learn.predict(inputs), expected)
    assert learn.model.training


def test_get_preds_joins_all_batches(learn):
    preds, targets = learn.get_preds()
    assert preds.shape == targets.shape == (8, 1)
    assert torch.equal(preds[:4], learn.predict(learn.data.valid[0][0]))


def test_a_snapshot_restores_weights_optimizer_counters_history_and_random_state(make_learner):
    learn = make_learner()
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1, momentum=0.9)
    learn.fit(1)
    snapshot = learn.snapshot()
    draws = (random.random(), np.random.rand(), torch.rand(()).item())
    learn.fit(2)
    end = weights(learn)
    learn.restore(snapshot)
    assert (learn.global_step, len(learn.history)) == (3, 1)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == draws
    learn.fit(2)
    assert torch.equal(weights(learn), end)
    learn.restore(snapshot)
    assert learn.global_step == 3


def test_a_snapshot_keeps_the_declared_state_of_callbacks(make_learner):
    class Counter(Callback):
        state = ("count",)
        count = 0

        def after_batch(self, learn):
            self.count += 1

    learn = make_learner(callbacks=[Counter()])
    snapshot = learn.snapshot()
    learn.fit(1)
    assert learn.callbacks.counter.count == 5
    learn.restore(snapshot)
    assert learn.callbacks.counter.count == 0


def test_a_snapshot_of_another_model_is_refused_and_changes_nothing(make_learner):
    learn = make_learner()
    other = make_learner(model=nn.Linear(1, 1, bias=False)).snapshot()
    before = weights(learn)
    with pytest.raises(ValueError, match=r"another model: 1 tensor differs, such as 'bias'"):
        learn.restore(other)
    assert torch.equal(weights(learn), before)


def test_a_sandbox_leaves_no_trace(make_learner):
    learn = make_learner(model=nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    learn.fit(1)
    learn.model.train()
    learn.model[0].weight.grad = torch.ones(4, 1)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    draws = torch.get_rng_state()
    with learn.sandbox():
        learn.fit(2)
        learn.model.eval()
        learn.model[0].weight.requires_grad_(False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.equal(learn.model[0].weight.grad, torch.ones(4, 1))
    assert learn.model.training
    assert learn.model[0].weight.requires_grad
    assert len(learn.history) == 1
    assert learn.global_step == 3
