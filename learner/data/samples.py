"""What one item of a batch looks like: for `predict`, and for the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """The shape and type of one argument of the model for one item.

    Attributes:
        shape: without the dimension of the items.
        dtype: of the tensor.
        dim: the dimension of the items in a batch.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    dim: int = 0

    def of_batch(self, length: int | str = "batch") -> str:
        """The shape of a batch, in words: `(batch, 3)`."""
        shape = [*map(str, self.shape)]
        shape.insert(self.dim, str(length))
        return f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"

    def is_of(self, batch: Tensor) -> bool:
        """Does this batch have items of the same shape and type?"""
        shape = (*batch.shape[: self.dim], *batch.shape[self.dim + 1 :])
        return shape == self.shape and batch.dtype == self.dtype

    def fits(self, item: Tensor) -> bool:
        """Can this tensor be one item: of the same shape, or of another length or size?

        Lengths differ in sequences of tokens and of vectors, and sizes in images.
        """
        shape, own = tuple(item.shape), self.shape
        if len(shape) != len(own):
            return False
        if shape == own:
            return True
        if len(own) == 1:
            return not (self.dtype.is_floating_point or item.dtype.is_floating_point)
        return shape[0] == own[0] or shape[-1] == own[-1]


OTHER = "other"

#: A `Sample` for each argument by position or keyword, "list" for a list with one entry per item, `OTHER` for
#: what is not a tensor, such as a batch of graphs, or None for a tensor without a dimension of the items.
Samples = dict[Any, Any]


def as_plain(samples: Samples) -> list[dict[str, Any]]:
    """The arguments that are tensors, for a file."""
    return [
        {"key": key, "shape": list(each.shape), "dtype": str(each.dtype).removeprefix("torch.")}
        | ({"dim": each.dim} if each.dim else {})
        for key, each in samples.items()
        if isinstance(each, Sample)
    ]


def from_plain(rows: list[dict[str, Any]]) -> Samples:
    """The samples for which `as_plain` returned these rows.

    Raises:
        ValueError: a type is not one of torch's.
    """
    found = {}
    for each in rows:
        dtype = getattr(torch, each["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{each['dtype']!r} is not a type of torch.")
        found[each["key"]] = Sample(tuple(each["shape"]), dtype, each.get("dim", 0))
    return found


def samples_of(inputs: Any, n_items: int) -> Samples:
    """What one item of a batch looks like.

    Args:
        inputs: the model's arguments: a tuple or a mapping.
        n_items: the number of items in the batch.
    """
    pairs = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    return {key: sample_of(value, n_items) for key, value in pairs}


def sample_of(value: Any, n_items: int) -> Any:
    """What one item of an argument looks like."""
    if type(value) is list and len(value) == n_items:
        return "list"
    if not isinstance(value, Tensor):
        return OTHER
    if value.is_nested or value.layout is not torch.strided:
        return None
    if n_items not in value.shape[:2]:
        return None
    dim = value.shape[:2].index(n_items)
    return Sample((*value.shape[:dim], *value.shape[dim + 1 :]), value.dtype, dim)
