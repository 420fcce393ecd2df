"""Models and learners of all kinds end in several processes with the weights of one."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException

from callbacks import Callback, GradientAccumulation, Order
from callbacks.distributed.distributed import Distributed
from learner import Data, Learner


class TwoParts(nn.Module):
    """A model with a layer that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(4, 3), nn.Linear(3, 1), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": self.head(self.body(x))}


class ByParts(Learner):
    """Calls the parts of the model, not the model."""

    def forward(self) -> None:
        model: Any = self.model
        self.preds = {"score": model.head(model.body(self.inputs[0]))}


def error(preds: dict[str, Tensor], targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(preds["score"], targets)


class Critic(Callback):
    """Trains its own network, which judges the predictions, before each step of the model."""

    order, state = Order.TRANSFORM, ("network", "optimizer")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(int(os.environ.get("RANK", 0)))  # the weights of the first rank are used
        self.network = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)

    def after_pred(self, learn: Any) -> None:
        if learn.training:
            self.optimizer.zero_grad()
            nn.functional.mse_loss(self.network(learn.preds.detach()), learn.targets).backward()
            self.optimizer.step()

    def loss(self, preds: Tensor, targets: Tensor) -> Tensor:
        return self.network(preds).square().mean()


def weights_of_both() -> list[Tensor]:
    critic = Critic()
    torch.manual_seed(0)
    x = torch.randn(9, 4)
    data = Data.from_tensors(x, x[:, :1], 4, valid=None, seed=0)
    learn = Learner(nn.Linear(4, 1), data, critic.loss, partial(torch.optim.SGD, lr=0.1), critic)
    learn.fit(2)
    learn.fit(1)
    return [each.detach() for one in (learn.model, critic.network) for each in one.parameters()]


@pytest.mark.parametrize("size", [2, 3])
def test_a_network_with_its_own_optimizer_trains_as_in_one_process(size: int) -> None:
    expected = weights_of_both()
    for found in in_ranks(size, weights_of_both, limit=10):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def weights(made: type[Learner], is_frozen: bool, batch_size: int, **settings: Any) -> list[Tensor]:
    torch.manual_seed(0)
    model, x = TwoParts(), torch.randn(9, 4)
    model.idle.requires_grad_(not is_frozen)
    data = Data.from_tensors(x, x[:, :1], batch_size, valid=None, seed=0)
    learn = made(model, data, error, partial(torch.optim.SGD, lr=0.1), Distributed(**settings))
    learn.fit(2)
    return [each.detach() for each in learn.model.parameters()]


@pytest.mark.parametrize(
    ("made", "is_frozen", "batch_size", "settings"),
    [
        pytest.param(ByParts, True, 4, {}, id="a learner that calls parts of the model"),
        pytest.param(Learner, True, 1, {}, id="batches smaller than the number of ranks"),
        pytest.param(Learner, False, 4, {"find_unused_parameters": True}, id="a layer that does not run"),
        pytest.param(Learner, True, 4, {"static_graph": True}, id="a static graph"),
    ],
)
def test_ranks_end_with_the_weights_of_one_process(made: Any, is_frozen: Any, batch_size: Any, settings: Any):
    expected = weights(made, is_frozen, batch_size)
    for found in in_ranks(2, partial(weights, **settings), made, is_frozen, batch_size, limit=10):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_parameters_that_the_loss_does_not_depend_on_are_named_with_what_to_do() -> None:
    with pytest.raises(ProcessRaisedException, match=r"depend on idle.weight, idle.bias[^\n]*find_unused"):
        in_ranks(2, weights, Learner, False, 4, limit=10)


def mixed(size_of_batch: int) -> list[Tensor]:
    """The weights of a model whose parameters have several types."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).bfloat16()
    model[2].bias = nn.Parameter(model[2].bias.float())
    x = torch.randn(12, 4)
    batches = [(each.bfloat16(), each[:, :1].bfloat16()) for each in x.split(size_of_batch)]
    more = () if size_of_batch == 6 else (GradientAccumulation(6 // size_of_batch),)
    model[2].forward = lambda inputs: inputs @ model[2].weight.T + model[2].bias.bfloat16()
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(model, Data(batches), nn.functional.mse_loss, sgd, [Distributed(), *more])
    learn.fit(2)
    return [each.detach() for each in model.parameters()]


def test_a_model_of_several_types_has_the_bits_of_one_process_that_accumulates() -> None:
    expected = mixed(2)
    for found in in_ranks(3, mixed, 6, limit=10):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def lazy_message(kind: Any) -> str:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    data = Data([(torch.ones(2, 4), torch.ones(2, 1))])
    with pytest.raises(ValueError, match="Distributed") as caught:
        Learner(model, data, nn.functional.mse_loss, torch.optim.SGD, Distributed(kind)).fit(1)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_lazy_layers_are_refused_by_name_with_what_to_do(kind: str) -> None:
    for message in in_ranks(2, lazy_message, kind, limit=10):
        assert "0.weight, 0.bias" in message
        assert "learn.predict(inputs)" in message


class Change(Callback):
    """Freezes or unfreezes the first layer in the second batch."""

    def __init__(self, is_trained: bool):
        super().__init__()
        self.is_trained = is_trained

    def before_batch(self, learn: Any) -> None:
        if learn.batch_idx == 1:
            learn.model[0].requires_grad_(self.is_trained)


def changed_within_a_pass() -> list[str]:
    found = []
    for is_trained, settings in ((False, {}), (True, {}), (True, {"find_unused_parameters": True})):
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        model[0].requires_grad_(not is_trained)
        data = Data([(torch.ones(2, 4), torch.ones(2, 1))] * 3)
        sgd = partial(torch.optim.SGD, lr=0.1)
        learn = Learner(
            model, data, nn.functional.mse_loss, sgd, [Distributed(**settings), Change(is_trained)]
        )
        try:
            learn.fit(1)
        except RuntimeError as error:
            found.append(str(error))
    return found


def test_parameters_that_are_frozen_or_unfrozen_within_a_pass_are_named() -> None:
    for messages in in_ranks(2, changed_within_a_pass, limit=10):
        assert len(messages) == 3
        assert all("0.bias, 0.weight were frozen, unfrozen or replaced" in each for each in messages)


def empty_message() -> str:
    x, y = torch.ones(4, 4), torch.ones(4, 1)
    data = Data([(x, y), (x[:0], y[:0]), (x, y)])
    with pytest.raises(FloatingPointError) as caught:
        Learner(nn.Linear(4, 1), data, nn.functional.mse_loss, torch.optim.SGD, Distributed()).fit(1)
    return str(caught.value)


def test_a_batch_that_is_empty_in_all_processes_is_the_error_of_one_process() -> None:
    assert all("batch 1 of epoch 0" in each for each in in_ranks(2, empty_message, limit=10))


def masked(preds: Tensor, targets: Tensor) -> Tensor:
    counts = targets >= 0
    return ((preds - targets).square() * counts).sum() / counts.sum()


def n_counted(learn: Any) -> Tensor:
    return (learn.targets >= 0).sum()


def masked_weights(kind: Any = None) -> list[Tensor]:
    """The first three items, which are the part of the first rank, have a weight of 0."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(6, 4)
    targets = torch.tensor([[-1.0], [-1.0], [-1.0], [1.0], [0.5], [0.0]])
    given = [] if kind is None else [Distributed(kind, weight=n_counted)]
    learn = Learner(model, Data([(x, targets)]), masked, partial(torch.optim.SGD, lr=0.1), given)
    learn.fit(2)
    return [getattr(each, "full_tensor", each.clone)().detach() for each in model.parameters()]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_part_in_which_nothing_counts_has_no_gradient(kind: str) -> None:
    expected = masked_weights()
    for found in in_ranks(2, masked_weights, kind, limit=10):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
