"""Tiny data for tests."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor


def line_batches(n_batches: int = 3, batch_size: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Batches of points on y = 2x + 1, from their own generator."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n_batches, batch_size, 1, generator=generator)
    return [(each, 2 * each + 1) for each in inputs]


def notes(error: BaseException) -> str:
    """What was noted on an error."""
    return "\n".join(getattr(error, "__notes__", []))


def title_of(thing: object) -> str:
    """The repr without its address, which differs between the workers of a parallel run."""
    return re.sub(r" at 0x\w+", "", repr(thing))


def names_in(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())
