"""A fit has the bits of a hand-written loop: weights, buffers, optimizer, losses, random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import EarlyStopping, Metrics, Recorder, ZeroGrad, accuracy
from learner import DEFAULT_CALLBACKS, Data, Learner

N_EPOCHS = 3
SGD = partial(torch.optim.SGD, lr=0.1)
INPUTS = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()


def network(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, 2))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(3, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.last(torch.tanh(self.left(left) * self.right(right)))


@dataclass
class Output:
    logits: Tensor
    loss: Tensor


class OwnLoss(nn.Module):
    """A model with the loss in its output, as those of transformers."""

    def __init__(self):
        super().__init__()
        self.layers = network(nn.Dropout(0.3))

    def forward(self, values: Tensor, labels: Tensor) -> Output:
        logits = self.layers(values)
        return Output(logits, F.cross_entropy(logits, labels))


def pairs(batch_size: int = 8) -> list[Any]:
    return list(zip(INPUTS.split(batch_size), TARGETS.split(batch_size), strict=True))


def triples() -> list[Any]:
    return [(inputs[:, :3], inputs[:, 3:], targets) for inputs, targets in pairs()]


def mappings(target: str) -> list[Any]:
    return [{"values": inputs, target: targets} for inputs, targets in pairs()]


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8, shuffle=True)


def generated() -> Iterator[Any]:
    """Noise on every batch, from the global random state, and an unknown number of batches."""
    for inputs, targets in pairs():
        yield inputs + 0.1 * torch.randn_like(inputs), targets


def loss_of_pair(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@dataclass
class Case:
    """One training: the arguments of a learner, and how a hand-written loop computes the loss of a batch."""

    make_model: Callable[[], nn.Module] = field(default=network)
    optimizer: Callable[..., torch.optim.Optimizer] = field(default=SGD)
    batches: Callable[[], Any] = field(default=pairs)
    loss_by_hand: Callable[[nn.Module, Any], Tensor] = field(default=loss_of_pair)
    loss_func: Callable[..., Any] | None = field(default=F.cross_entropy)
    valid: Callable[[], Any] | None = None
    data_options: dict[str, Any] = field(default_factory=dict)


def noisy_network() -> nn.Module:
    return network(nn.BatchNorm1d(16), nn.Dropout(0.3))


CASES = {
    "sgd": Case(),
    "momentum": Case(optimizer=partial(SGD, momentum=0.9, nesterov=True, weight_decay=1e-2)),
    "adam": Case(optimizer=partial(torch.optim.Adam, lr=1e-2)),
    "batch norm and dropout": Case(noisy_network),
    "a shuffled DataLoader": Case(noisy_network, batches=shuffled),
    "a generator that draws noise": Case(noisy_network, batches=lambda: generated),
    "two inputs": Case(
        TwoInputs,
        batches=triples,
        loss_by_hand=lambda model, batch: F.cross_entropy(model(*batch[:2]), batch[2]),
        data_options={"n_inputs": 2},
    ),
    "mappings with a target": Case(
        lambda: OnlyValues(noisy_network()),
        batches=lambda: mappings("wanted"),
        loss_by_hand=lambda model, batch: F.cross_entropy(model(values=batch["values"]), batch["wanted"]),
        data_options={"targets": "wanted"},
    ),
    "an output with its own loss": Case(
        OwnLoss,
        batches=lambda: mappings("labels"),
        loss_by_hand=lambda model, batch: model(**batch).loss,
        loss_func=None,
    ),
    "validation": Case(noisy_network, partial(torch.optim.Adam, lr=1e-2), shuffled, valid=lambda: pairs(16)),
}


class OnlyValues(nn.Module):
    """A model whose input is a keyword."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values)


def train_by_hand(case: Case) -> tuple[list[Tensor], list[float]]:
    """Train by a hand-written loop; return all tensors at its end and the loss of each step."""
    torch.manual_seed(0)
    model = case.make_model()
    optimizer = case.optimizer(model.parameters())
    train = case.batches()
    losses = []
    for _ in range(N_EPOCHS):
        model.train()
        for batch in train() if callable(train) else train:
            loss = case.loss_by_hand(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
    return tensors_of(model, optimizer), losses


def train_by_learner(case: Case, **options) -> tuple[list[Tensor], list[float]]:
    """Train by a learner; return the same."""
    torch.manual_seed(0)
    model = case.make_model()
    data = Data(case.batches(), case.valid and case.valid(), **case.data_options)
    learn = Learner(model, data, case.loss_func, case.optimizer, **options)
    history = learn.fit(N_EPOCHS)
    return tensors_of(model, learn.optimizer), list(history.steps["train_loss"])


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters, buffers, the optimizer's state, and the random state."""
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return [
        *(tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())),
        *(torch.as_tensor(value).clone() for value in state if value is not None),
        torch.get_rng_state(),
    ]


def assert_equal(found: tuple[list[Tensor], list[float]], wanted: tuple[list[Tensor], list[float]]) -> None:
    assert found[1] == wanted[1]
    assert len(found[0]) == len(wanted[0])
    assert all(torch.equal(one, other) for one, other in zip(found[0], wanted[0], strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bare_fit_has_the_bits_of_a_hand_written_loop(case):
    found = train_by_learner(case, callbacks=[ZeroGrad, Recorder], defaults=())
    assert_equal(found, train_by_hand(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fit_with_all_defaults_has_the_bits_of_a_hand_written_loop(case, capsys):
    found = train_by_learner(case, defaults=DEFAULT_CALLBACKS)
    assert_equal(found, train_by_hand(case))


def test_metrics_and_early_stopping_that_does_not_stop_change_no_bit(capsys):
    case = CASES["validation"]
    stopping = EarlyStopping("valid_loss", patience=100, restore_best=False)
    found = train_by_learner(case, callbacks=[stopping, Metrics(accuracy, on="both")])
    assert_equal(found, train_by_hand(case))


def test_validating_and_predicting_between_two_fits_change_no_bit(capsys):
    case = CASES["validation"]
    torch.manual_seed(0)
    model = case.make_model()
    learn = Learner(model, Data(case.batches(), pairs(16)), case.loss_func, case.optimizer)
    for _ in range(N_EPOCHS):
        learn.fit(1)
        learn.validate()
        learn.predict(INPUTS)
        learn.get_preds()
    found = tensors_of(model, learn.optimizer), list(learn.history.steps["train_loss"])
    assert_equal(found, train_by_hand(case))
