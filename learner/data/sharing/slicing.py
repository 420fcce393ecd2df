"""Take a range of the items of a batch of any kind."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from learner.data.tensors import describe

WHOLE = (str, bytes, bool, int, float, complex, type(None), np.number)  # the same for all items
HINT = (
    'Pass Distributed(batch="each"), so that each process takes whole batches in turn; or let each process '
    "create its own part of the data, and pass Distributed(sharded=True)."
)


class Slicer:
    """Slices batches of one loader; it learns from each batch which dimension belongs to the items."""

    def __init__(self) -> None:
        self.dims: dict[tuple[Any, ...], int] = {}  # of tensors, by the path in a batch
        self.are_columns: dict[tuple[Any, ...], bool] = {}  # of lists

    def slice(self, batch: Any, start: int, stop: int, n_items: int) -> Any:
        """The items from `start` to `stop` of a batch of `n_items`.

        Raises:
            TypeError, ValueError: the batch cannot be split; the message says what to do.
        """
        if (start, stop) == (0, n_items):
            return batch
        piece = Piece(self, slice(start, stop), n_items, batch)
        if isinstance(batch, (tuple, list)):  # inputs and targets
            return rebuilt(batch, [piece.of(each, (n,)) for n, each in enumerate(batch)])
        return piece.of(batch, ())


@dataclasses.dataclass
class Piece:
    """A range of the items of one batch."""

    known: Slicer
    range: slice
    n_items: int
    batch: Any

    def of(self, part: Any, path: tuple[Any, ...]) -> Any:
        """The items of the range in a part of the batch."""
        if isinstance(part, WHOLE):
            return part
        if isinstance(part, Tensor):
            return self.of_tensor(part, path)
        if isinstance(part, np.ndarray):
            return part[self.range] if self.has_items(part.shape, path) else part
        if isinstance(part, PackedSequence):
            return self.of_packed(part)
        if isinstance(part, Mapping):
            return rebuilt(part, [self.of(each, (*path, key)) for key, each in part.items()])
        if isinstance(part, (tuple, list)):
            return self.of_sequence(part, path)
        if dataclasses.is_dataclass(part):
            found = copy.copy(part)
            for each in dataclasses.fields(part):
                object.__setattr__(found, each.name, self.of(getattr(part, each.name), (*path, each.name)))
            return found
        raise TypeError(f"a batch contains {describe(part)}, which cannot be split into items. {HINT}")

    def of_tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> Tensor:
        if not tensor.ndim:
            return tensor
        if tensor.is_nested:
            rows = list(tensor.unbind()[self.range])
            return torch.nested.as_nested_tensor(rows, layout=tensor.layout)
        if not self.has_items(tensor.shape, path):
            return tensor
        start, stop = self.range.start, self.range.stop
        if tensor.layout is torch.strided:
            return tensor.narrow(self.known.dims[path], start, stop - start)
        return tensor.index_select(self.known.dims[path], torch.arange(start, stop, device=tensor.device))

    def has_items(self, shape: Sequence[int], path: tuple[Any, ...]) -> bool:
        """Does a tensor have a dimension of items? It is the first one, or the second if time comes first.

        Raises:
            ValueError: neither is, and the tensor does not have one row for all items.
        """
        dims = [dim for dim in (0, 1) if dim < len(shape) and shape[dim] == self.n_items]
        if len(dims) == 1:
            self.known.dims[path] = dims[0]
        elif dims:
            self.known.dims.setdefault(path, 0)
        elif shape[0] != 1:
            raise ValueError(
                f"a batch of {self.n_items} items, {describe(self.batch)}, contains an array of shape "
                f"{tuple(shape)}: it is not known which of its rows belong to which item. {HINT}"
            )
        return bool(dims)

    def of_packed(self, packed: PackedSequence) -> PackedSequence:
        padded, lengths = pad_packed_sequence(packed, batch_first=True)
        is_sorted = packed.sorted_indices is None
        return pack_padded_sequence(
            padded[self.range], lengths[self.range], batch_first=True, enforce_sorted=is_sorted
        )

    def of_sequence(self, part: Sequence[Any], path: tuple[Any, ...]) -> Any:
        """A range of a list with an entry per item; or each entry, if they are columns."""
        shapes = {each.shape[0] if isinstance(each, Tensor) and each.ndim else None for each in part}
        is_ambiguous = len(part) == self.n_items and shapes == {self.n_items}
        if not is_ambiguous:
            self.known.are_columns[path] = len(part) != self.n_items
        if not self.known.are_columns.get(path, False):
            return part[self.range]
        return rebuilt(part, [self.of(each, (*path, n)) for n, each in enumerate(part)])


def rebuilt(like: Any, parts: Sequence[Any]) -> Any:
    """A tuple, list or mapping of the kind of `like` that holds these."""
    kind: Any = type(like)
    if isinstance(like, tuple):
        if hasattr(like, "_fields"):
            return kind(*parts)
        return kind(parts) if hasattr(like, "n_fields") else tuple(parts)  # as torch.max returns
    if not isinstance(like, Mapping):
        return kind(parts)
    named = dict(zip(like, parts, strict=True))
    if kind is dict or not isinstance(like, MutableMapping):
        return kind(named)
    new: Any = copy.copy(like)  # keeps a default factory, and the attributes of a Hugging Face output
    for key, value in named.items():
        new[key] = value
    return new
