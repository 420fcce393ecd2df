"""Models that several processes share, and what they end with."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from learner import Data, Learner


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(17, 17), nn.LayerNorm(17)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.norm(torch.tanh(self.layer(inputs)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 17), Block(), Block(), nn.Linear(17, 3))


def learner_of(*callbacks: Any, optimizer: Any = torch.optim.AdamW) -> Learner:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(50, 5, generator=generator), torch.randint(3, (50,), generator=generator)
    data = Data.from_tensors(inputs, targets, 7, seed=3)
    return Learner(network(), data, nn.functional.cross_entropy, partial(optimizer, lr=0.01), list(callbacks))


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights."""
    found = model.named_parameters()
    return {name: getattr(each, "full_tensor", each.clone)().detach() for name, each in found}


def state_of(learn: Learner) -> tuple[dict[str, Tensor], list[Any]]:
    """The whole weights, and the losses."""
    return whole(learn.model), [(row["train_loss"], row["valid_loss"]) for row in learn.history]
