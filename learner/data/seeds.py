"""Seed the global random generators."""

from __future__ import annotations

import random
from numbers import Integral
from typing import Any

import numpy as np
import torch

MAX_SEED = 2**32 - 1  # the largest seed that NumPy accepts


def seed_everything(seed: int) -> int:
    """Seed the global random generators of Python, NumPy and torch, including those of all devices.

    Workers of a `DataLoader` draw their seeds from torch's generator, so they follow. Generators of your own
    (`torch.Generator`, `numpy.random.default_rng`) do not, nor does the order of `Data.from_tensors(...,
    seed=...)`, which depends on its own seed. Kernels of a GPU may still sum in another order each time;
    `torch.use_deterministic_algorithms(True)` prevents this.

    Args:
        seed: a whole number from 0 to 2**32 - 1.

    Returns:
        The seed.

    Raises:
        ValueError: `seed` is not such a number.
    """
    seed = checked_seed(f"seed_everything({seed!r})", seed)
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)
    return seed


def checked_seed(title: str, seed: Any) -> int:
    """Return a seed for all generators; `title` is the call, for the message."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) <= MAX_SEED:
        raise ValueError(f"{title}: pass a whole number from 0 to {MAX_SEED}.")
    return int(seed)  # it may be an integer of NumPy
