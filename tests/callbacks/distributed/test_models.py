"""Models and learners of all kinds end in several processes with the weights of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from in_ranks import in_ranks
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException

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
