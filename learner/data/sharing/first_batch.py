"""Check that all ranks have drawn the same first batch, of which each takes its part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

N_NUMBERS = 8  # that are compared, of each tensor
CLOSE = 1e-3  # another processor may compute an augmentation with other last digits


def sample_of(batch: Any) -> Any:
    """Some plain values of a batch, to compare; only the shape of a tensor on an accelerator."""
    if isinstance(batch, Mapping):
        return [sample_of(each) for each in batch.values()]
    if isinstance(batch, (list, tuple)):
        return [len(batch), *map(sample_of, batch[:N_NUMBERS])]
    if isinstance(batch, Tensor):
        is_plain = batch.is_cpu and not batch.is_nested and not batch.is_sparse and not batch.is_complex()
        numbers = batch.detach().flatten()[:N_NUMBERS].tolist() if is_plain else []
        return [str(tuple(batch.shape)) if not batch.is_nested else "", *numbers]
    if isinstance(batch, np.ndarray):
        return [str(batch.shape)]
    if isinstance(batch, np.generic):
        return batch.item()
    return batch if isinstance(batch, (int, float, str)) else type(batch).__name__


def unchecked(batch: Any) -> None:
    """Accept any first batch."""


def is_alike(one: Any, other: Any) -> bool:
    """Are two samples equal, except for rounding?"""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one == other


def check_alike(samples: list[Any], title: str) -> None:
    """Refuse to train on parts of batches that differ.

    Args:
        samples: what `sample_of` returned for the first batch of a pass, by rank.
        title: of the data.

    Raises:
        ValueError: a rank has drawn another batch.
    """
    others = [rank for rank, each in enumerate(samples) if not is_alike(each, samples[0])]
    if others:
        raise ValueError(
            f"{title} yields a different first batch on rank {others[0]} than on rank 0, so some items "
            "would be trained twice, and others never. Draw the order from the global generators of "
            "torch, Python or NumPy, which are equal on all ranks, or use the same seed on each. If each "
            "rank has its own data, pass Distributed(sharded=True)."
        )
