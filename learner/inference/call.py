"""What a model is called with, for any number of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves as leaves
from torch.utils._pytree import tree_map

__all__ = ["Call", "leaves", "plain", "same_numbers"]


@dataclass(frozen=True)
class Call:
    """The inputs of a model: a tuple of arguments, a mapping of keywords, or a single argument.

    Args:
        inputs: on the CPU.
        n_items: the number of items in them.
        dynamic: the dimensions whose size may vary; None for the one that counts the items.
    """

    inputs: Any
    n_items: int
    dynamic: tuple[int, ...] | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        if isinstance(self.inputs, Mapping):
            return ()
        return plain(self.inputs) if type(self.inputs) is tuple else (plain(self.inputs),)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return plain(self.inputs) if isinstance(self.inputs, Mapping) else {}

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, in the order in which a program takes them."""
        return [each for each in leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]

    @property
    def n_traced(self) -> int:
        """The number of items to export with: torch takes a dimension of size 1 as a constant."""
        return self.n_items if self.dynamic == () else max(self.n_items, 2)

    def other_counts(self) -> tuple[int, ...]:
        """Other numbers of items to check with."""
        return () if self.dynamic == () else (1, self.n_traced + 1, 2 * self.n_traced)

    def item_dimension(self, each: Any) -> int | None:
        """The dimension of an input that counts the items: the first, else the second."""
        shape = each.shape if isinstance(each, Tensor) else ()
        return next((dim for dim in (0, 1) if len(shape) > dim and shape[dim] == self.n_items), None)

    def dynamic_dimensions(self, each: Any) -> dict[int, Any] | None:
        """The dimensions of an input that may vary, as `torch.export` takes them."""
        if not isinstance(each, Tensor):
            return None
        dim = self.item_dimension(each)
        usual = () if dim is None else (dim,)
        found = usual if self.dynamic is None else [dim for dim in self.dynamic if dim < each.ndim]
        return dict.fromkeys(found, torch.export.Dim.DYNAMIC)

    def resized(self, n_items: int) -> Call:
        """The first items, or all of them repeated."""
        if n_items == self.n_items:
            return self
        index = torch.arange(n_items) % self.n_items

        def resized(each: Any) -> Any:
            dim = self.item_dimension(each)
            return each if dim is None else each.index_select(dim, index)

        return Call(tree_map(resized, plain(self.inputs)), n_items, self.dynamic)


def plain(nest: Any) -> Any:
    """Tuples, lists and dicts instead of named tuples, data classes and other mappings.

    Parts that are None are left out of data classes and other mappings, as Hugging Face does.
    """
    if isinstance(nest, Tensor):
        return nest
    if type(nest) is dict:
        return {key: plain(each) for key, each in nest.items()}
    if isinstance(nest, Mapping):
        return {key: plain(each) for key, each in nest.items() if each is not None}
    if is_dataclass(nest) and not isinstance(nest, type):
        parts = {each.name: getattr(nest, each.name) for each in fields(nest)}
        return {name: plain(each) for name, each in parts.items() if each is not None}
    if isinstance(nest, (tuple, list)):
        parts = [plain(each) for each in nest]
        return parts if isinstance(nest, list) else tuple(parts)
    return nest


def same_numbers(one: Any, other: Any) -> bool:
    """Are the tensors of two outputs equal, NaN for NaN?"""
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs if isinstance(a, Tensor) and a.numel()
    )
