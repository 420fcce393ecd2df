"""What a model is called with, for any number of items."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves as leaves
from torch.utils._pytree import tree_map

from learner.data.tensors import describe

__all__ = ["Call", "leaves", "plain", "same_numbers"]


@dataclass(frozen=True)
class Call:
    """The inputs of a model: a tuple of arguments, or a mapping of keywords."""

    inputs: Any  #: on the CPU
    n_items: int  #: the number of items in them
    #: the dimensions whose size may vary; None for the dimension of the items
    dynamic: tuple[int, ...] | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return () if isinstance(self.inputs, Mapping) else self.inputs

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.inputs) if isinstance(self.inputs, Mapping) else {}

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, in the order in which a program takes them."""
        return [each for each in leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]

    @property
    def words(self) -> str:
        """The shapes of the tensors, such as `(n, 24)`: `n` items, `any` for another size that may vary."""
        named = {name: each for name, each in self.kwargs.items() if isinstance(each, Tensor)}
        if named and len(named) == len(self.tensors):
            return f"by keyword {', '.join(f'{name} {self._shape_of(each)}' for name, each in named.items())}"
        return f"of shape {', '.join(map(self._shape_of, self.tensors))}"

    def _shape_of(self, each: Tensor) -> str:
        items, dynamic = self.item_dimension(each), self.dynamic_dimensions(each) or {}
        free = {dim: "n" if dim == items else "any" for dim in dynamic}
        sizes = ", ".join(free.get(dim, str(size)) for dim, size in enumerate(each.shape))
        return f"({sizes},)" if each.ndim == 1 else f"({sizes})"

    @property
    def varies(self) -> bool:
        """Can the number of items vary?"""
        dims = [(self.item_dimension(each), self.dynamic_dimensions(each) or {}) for each in self.tensors]
        return any(dim is not None and dim in dynamic for dim, dynamic in dims)

    @property
    def n_traced(self) -> int:
        """The number of items to export with: torch treats a dimension of size 1 as a constant."""
        return max(self.n_items, 2) if self.varies else self.n_items

    def other_counts(self) -> tuple[int, ...]:
        """Other numbers of items to check with."""
        return (1, self.n_traced + 1, 2 * self.n_traced) if self.varies else ()

    def check_for_program(self) -> None:
        """Refuse inputs that a program cannot take."""
        every = leaves((self.args, self.kwargs), is_leaf=lambda item: isinstance(item, PackedSequence))
        for each in every:
            is_tensor = isinstance(each, Tensor) and not each.is_nested and each.layout is torch.strided
            if not is_tensor and not isinstance(each, (int, float, bool, str, NoneType)):
                raise TypeError(
                    f"export: the model takes {describe(each)}, and a program takes dense tensors: pad the "
                    "items and let forward take their lengths, or export the weights to a .pt file."
                )
        n_dims = max((each.ndim for each in self.tensors), default=0)
        if self.dynamic and not all(type(dim) is int and 0 <= dim < n_dims for dim in self.dynamic):
            raise ValueError(
                f"export(dynamic={self.dynamic!r}): pass dimensions of the inputs, which have {n_dims}, such "
                "as (0,) for the first or (0, 1)."
            )

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
        """The first items, or all of them repeated; other dimensions that may vary are one shorter."""
        if n_items == self.n_items:
            return self
        index = torch.arange(n_items) % self.n_items

        def resized(each: Any) -> Any:
            items = self.item_dimension(each)
            for dim in self.dynamic_dimensions(each) or ():
                if dim != items and each.shape[dim] > 2:
                    each = each.narrow(dim, 0, each.shape[dim] - 1)
            return each if items is None else each.index_select(items, index)

        inputs = dict(self.inputs) if isinstance(self.inputs, Mapping) else self.inputs
        return Call(tree_map(resized, inputs), n_items, self.dynamic)


def plain(nest: Any) -> Any:
    """Tuples, lists and dicts instead of named tuples, data classes and other mappings.

    In data classes and other mappings, parts that are None are left out, as Hugging Face does, and so are
    objects of other classes, such as a cache.
    """
    if isinstance(nest, Tensor):
        return nest
    if type(nest) is dict:
        return {key: plain(each) for key, each in nest.items()}
    if isinstance(nest, Mapping):
        kinds = (Tensor, int, float, tuple, list, Mapping)  # what a program can return
        parts = {key: each for key, each in nest.items() if isinstance(each, kinds) or is_dataclass(each)}
        return {key: plain(each) for key, each in parts.items()}
    if is_dataclass(nest) and not isinstance(nest, type):
        return plain(OrderedDict((each.name, getattr(nest, each.name)) for each in fields(nest)))
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
