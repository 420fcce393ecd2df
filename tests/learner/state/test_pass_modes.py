"""The mode in which a fit leaves the model, and the mode in which the next fit trains."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from tiny import line_batches
from torch import nn

from callbacks import Callback, CancelFit, on
from learner import Data, Learner


def body_and_head() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5)), nn.Linear(8, 1))


def modes_of(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def modes_in_training(learn: Learner, **options: Any) -> dict[str, bool]:
    """The modes of all modules at the first batch of a fit."""
    seen: list[dict[str, bool]] = []

    @on("before_batch")
    def look(learn):
        seen.append(modes_of(learn.model))

    learn.fit(1, callbacks=[look], **options)
    return seen[0]


@pytest.mark.parametrize("valid", [True, False])
def test_after_a_fit_the_model_called_directly_agrees_with_predict(make_learner, valid):
    learn = make_learner(model=body_and_head(), valid=valid)
    learn.fit(2)
    inputs = torch.rand(6, 1)
    assert torch.equal(learn.model(inputs), learn.predict(inputs))


def test_a_model_exported_after_a_fit_has_no_dropout(make_learner):
    learn = make_learner(model=body_and_head())
    learn.fit(1)
    inputs = torch.rand(6, 1)
    program = torch.export.export(learn.model, (inputs,)).module()
    torch.testing.assert_close(program(inputs), learn.predict(inputs))


@pytest.mark.parametrize("end", [lambda learn: learn.stop("enough"), CancelFit])
def test_a_fit_that_stops_early_also_leaves_evaluation_mode(make_learner, end):
    @on("after_batch")
    def early(learn):
        if isinstance(end, type):
            raise end
        end(learn)

    learn = make_learner(model=body_and_head())
    learn.fit(1, callbacks=[early])
    assert not any(modes_of(learn.model).values())


def test_the_next_fit_trains_with_the_modes_of_the_previous_fit(make_learner):
    learn = make_learner(model=body_and_head())
    learn.model[0].eval()
    first = modes_in_training(learn)
    assert first == {"": True, "0": False, "0.0": False, "0.1": False, "1": True}
    assert modes_in_training(learn) == first


def test_modes_set_after_a_call_of_train_are_used_by_the_next_fit(make_learner):
    learn = make_learner(model=body_and_head())
    learn.fit(1)
    learn.model.train()
    learn.model[0].eval()
    assert modes_in_training(learn)["0.1"] is False


def test_a_part_of_a_trained_model_trains_within_another_model(make_learner):
    first = make_learner(model=body_and_head())
    first.fit(1)
    second = make_learner(model=nn.Sequential(first.model[0], nn.Linear(8, 1)))
    assert all(modes_in_training(second).values())


def test_a_module_added_after_a_fit_trains_with_the_others(make_learner):
    learn = make_learner(model=body_and_head())
    learn.fit(1)
    learn.model[1] = nn.Linear(8, 1)
    learn.optimizer.add_param_group({"params": list(learn.model[1].parameters())})
    assert all(modes_in_training(learn).values())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda learn: pickle.loads(pickle.dumps(learn))])
def test_a_copy_of_a_learner_trains_with_the_modes_of_the_original(copied):
    model = body_and_head()
    learn = Learner(model, Data(line_batches()), nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1))
    learn.model[0].eval()
    first = modes_in_training(learn)
    assert modes_in_training(copied(learn)) == first


@pytest.mark.parametrize("fits", [0, 1])
def test_an_error_restores_the_modes_from_before_the_fit(make_learner, fits):
    class Fail(Callback):
        def after_batch(self, learn):
            raise ZeroDivisionError

    learn = make_learner(model=body_and_head())
    for _ in range(fits):
        learn.fit(1)
    before = modes_of(learn.model)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[Fail])
    assert modes_of(learn.model) == before
    assert all(modes_in_training(learn).values())


def test_a_sandbox_restores_the_modes_and_the_next_fit_trains(make_learner):
    learn = make_learner(model=body_and_head())
    with learn.sandbox():
        learn.fit(1)
    assert all(modes_of(learn.model).values())
    learn.fit(1)
    learn.lr_find(n_steps=10)
    assert not any(modes_of(learn.model).values())
    assert all(modes_in_training(learn).values())


class Merging(nn.Linear):
    """Adds a trained product to its frozen weight while it is in evaluation mode, as layers for LoRA do."""

    def __init__(self) -> None:
        super().__init__(1, 4)
        self.weight.requires_grad_(False)
        self.one, self.other = nn.Parameter(torch.rand(4, 1)), nn.Parameter(torch.rand(1, 1))
        self.is_merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.is_merged is mode:
            self.weight.data += (-1 if mode else 1) * self.one @ self.other
            self.is_merged = not mode
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        outputs = super().forward(input)
        return outputs if self.is_merged else outputs + input @ (self.one @ self.other).T


def merging() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Merging(), nn.Dropout(0.0), nn.Linear(4, 1))


def test_layers_that_merge_their_weights_for_validation_train_as_in_a_loop(make_learner):
    train, valid = line_batches(4), line_batches(2)
    learn = make_learner(model=merging(), data=Data(train, valid), lr=0.05)
    learn.fit(3)
    model = merging()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.05)
    for _ in range(3):
        model.train()
        for inputs, targets in train:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        model.eval()
    model.train()
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))


def test_a_frozen_layer_beside_one_that_overrides_train_stays_in_evaluation_mode(make_learner):
    learn = make_learner(model=merging(), valid=True)
    learn.model[1].eval()
    learn.fit(2)
    assert modes_in_training(learn) == {"": True, "0": True, "1": False, "2": True}


def test_an_overridden_eval_is_called_before_validation(make_learner):
    class Counting(nn.Linear):
        n_calls = 0

        def eval(self) -> Counting:
            self.n_calls += 1
            return super().eval()

    learn = make_learner(model=Counting(1, 1), valid=True)
    learn.fit(2)
    assert learn.model.n_calls == 2
