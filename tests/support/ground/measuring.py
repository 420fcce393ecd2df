"""What the tests of our own metrics share: uneven batches, and a metric's value over them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 2)
SEEDS = st.integers(0, 1000)

Batches = list[tuple[Tensor, Tensor]]


def over(metric: Any, batches: Batches) -> Any:
    """A metric's value over batches of preds and targets, empty ones too."""
    metric.reset()
    for preds, targets in batches:
        metric.update(preds, targets)
    return torch.as_tensor(metric.compute(), dtype=torch.float64)


def joined(batches: Batches) -> tuple[Tensor, Tensor]:
    """All preds and all targets."""
    preds, targets = zip(*batches, strict=True)
    return torch.cat(preds), torch.cat(targets)


def split(preds: Tensor, targets: Tensor, sizes: list[int]) -> Batches:
    """Batches of these sizes."""
    return list(zip(preds.split(sizes), targets.split(sizes), strict=True))
