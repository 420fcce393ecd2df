"""Gather what a pass returns batch by batch: in one block of memory, in files, or as a list of batches."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.core.warning import warn
from callbacks.place.device import is_leaf, map_tensors
from callbacks.place.prefetch import Arrival, is_on_cuda
from learner.data.sharing.slicing import rebuilt
from learner.data.tensors import describe
from learner.files.row_file import RowFile
from learner.inference.joining import JoinError, items_dimension, join

N_BATCHES = 8  # for which memory is reserved at first if their number is not known


class Gathered:
    """What a pass returns under one name, such as `preds`.

    Tensors with one row per item are copied into one block of memory, or into a file, as are those of a
    mapping or tuple. If the shape or type of a batch differs from the first one, the batches are kept in a
    list, which `join` joins at the end.

    Args:
        name: the name in messages.
        n_batches: the expected number of batches; None if it is not known.
        n_items: the expected number of items; None if it is not known.
        path: the file to write; None to keep everything in memory.
        joins: join the batches; otherwise the result is a list of them.
    """

    def __init__(
        self,
        name: str,
        n_batches: int | None = None,
        n_items: int | None = None,
        *,
        path: Path | None = None,
        joins: bool = True,
    ):
        self.name, self.path, self.joins = name, path, joins
        self.n_batches, self.n_items = n_batches, n_items
        self.sizes: list[int] = []
        self.batches: list[Any] = []
        self._first: Any = None  # what the columns belong to
        self._columns: list[Block] | list[RowFile] = []
        self._shape: torch.Size | None = None  # of the first batch, if there is one column
        self._dtype: torch.dtype | None = None

    def add(self, part: Any, n_items: int) -> None:
        """Add what a batch returned.

        Raises:
            JoinError: it cannot be joined, which the first batch shows, or it does not fit the file.
        """
        if (  # mostly, and cheap: a plain tensor like the first one
            type(part) is Tensor
            and not part.is_nested
            and part.shape == self._shape
            and part.dtype is self._dtype
            and part.layout is torch.strided
            and n_items == self.sizes[0]
        ):
            self.sizes.append(n_items)
            self._columns[0].add(part)
            return
        rows = rows_of(part, n_items, is_known=bool(self._columns)) if self.joins else {}
        if not self.sizes:
            self._begin(part, rows)
        elif self._columns and not self._fits(part, rows):
            self._end_columns(part)
        self.sizes.append(n_items)
        if self._columns:
            for column, each in zip(self._columns, rows.values(), strict=True):
                column.add(each)
            return
        # copies, as a model or a loader may write its next batch to the same memory
        self.batches.append(copied(part))
        if len(self.sizes) == 1 and self.joins:
            join(self.batches, self.sizes, self.name)  # raises an error before the pass continues

    def _begin(self, part: Any, rows: dict[Any, Tensor]) -> None:
        self._first = part
        if rows and type(part) is Tensor:
            self._shape, self._dtype = part.shape, part.dtype
            self._first = part.to("meta")  # without its memory
        n_rows = (self.n_batches or N_BATCHES) * len(next(iter(rows.values()), ()))
        n_rows = n_rows if self.n_items is None else min(n_rows, self.n_items)
        if self.path is None:
            self._columns = [(LateBlock if is_on_cuda(row) else Block)(row, n_rows) for row in rows.values()]
        else:
            files: list[RowFile] = []
            self._columns = files  # one by one: if one cannot be made, `discard` removes the others
            for name, each in rows.items():
                files.append(RowFile(file_of(self.path, name), each, n_rows))

    def _fits(self, part: Any, rows: dict[Any, Tensor]) -> bool:
        if type(part) is not type(self._first) or len(rows) != len(self._columns):
            return False
        if isinstance(part, Mapping) and list(part) != list(self._first):
            return False
        pairs = zip(self._columns, rows.values(), strict=True)
        return all(column.shape == each.shape[1:] and column.dtype is each.dtype for column, each in pairs)

    def _end_columns(self, part: Any) -> None:
        """Continue with a list of batches."""
        if self.path is not None:
            raise JoinError(
                f"{self.name} is {describe(part)} in batch {len(self.sizes)}, and {describe(self._first)} in "
                "the first one, so that it does not fit in one array"
            )
        whole: list[Any] = [column.whole() for column in self._columns]
        splits = zip(*(torch.split(each, self.sizes) for each in whole), strict=True)
        self.batches = [self._whole(rows) for rows in splits]
        self._columns, self._shape = [], None

    def result(self) -> Any:
        """All batches together, or the list of them.

        Raises:
            JoinError: they cannot be joined.
        """
        if self._columns:
            return self._whole([column.whole() for column in self._columns])
        if not self.joins:
            return self.batches
        if self.name == "preds" and is_one_per_batch(self.batches, self.sizes):
            warn(
                "get_preds: there is one entry per batch, not per item, because a batch of "
                f"{self.sizes[0]} items gave {describe(self.batches[0])}. Return one row per item, from "
                "the model or from keep; or pass returns='batches' for a list with one entry per batch."
            )
        return join(self.batches, self.sizes, self.name)

    def _whole(self, parts: Any) -> Any:
        return parts[0] if isinstance(self._first, Tensor) else rebuilt(self._first, parts)

    def discard(self) -> None:
        """Remove files that are not complete."""
        for column in self._columns:
            if isinstance(column, RowFile):
                column.discard()


def is_one_per_batch(parts: list[Any], sizes: list[int]) -> bool:
    """Do batches of several items give one number each, or arrays of one shape, whatever their size?"""
    if max(sizes) == 1:
        return False
    if all(isinstance(part, (Number, np.generic)) for part in parts):
        return True
    if not all(isinstance(part, (Tensor, np.ndarray)) for part in parts):
        return False
    shapes = {tuple(part.shape) for part in parts if not getattr(part, "is_nested", False)}
    if shapes == {()}:
        return True
    is_constant = len(shapes) == 1 and (len(set(sizes)) > 1 or parts[0].shape[0] == 1)
    return is_constant and items_dimension(parts, sizes) is None


def rows_of(part: Any, n_items: int, *, is_known: bool = False) -> dict[Any, Tensor]:
    """The tensors of an output by name, if all have one row per item; otherwise nothing.

    A tuple with as many entries as items may have one entry per item, unless it is known to be several
    outputs.
    """
    if isinstance(part, Tensor):
        found = {"": part}
    elif isinstance(part, Mapping):
        found = dict(part)
    elif isinstance(part, tuple) and (is_known or hasattr(part, "_fields") or len(part) != n_items):
        found = dict(zip(getattr(part, "_fields", range(len(part))), part, strict=True))
    else:
        return {}
    return found if all(has_rows(each, n_items) for each in found.values()) else {}


def has_rows(item: Any, n_items: int) -> bool:
    """Is it a dense tensor with one row per item, and not of a subclass?"""
    return (
        type(item) in (Tensor, nn.Parameter)
        and item.layout is torch.strided
        and not (item.is_nested or item.is_quantized)
        and item.ndim > 0
        and item.shape[0] == n_items
    )


def file_of(path: Path, name: Any) -> Path:
    """The file of one of several tensors: `preds.logits.npy`; of a single one, the path itself.

    Raises:
        JoinError: the name cannot be a part of a file's name.
    """
    if any(each in str(name) for each in "/\\\0"):
        raise JoinError(f"preds has a part {name!r}, which cannot be a part of a file's name")
    return path if name == "" else path.with_name(f"{path.stem}.{name}{path.suffix}")


def copied(output: Any) -> Any:
    """Every tensor and array of an output on the CPU as a copy, without its graph."""

    def copy_of(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf.to("cpu")

    return map_tensors(output, copy_of, lambda item: isinstance(item, np.ndarray) or is_leaf(item))


class Block:
    """Rows in one tensor, which is allocated once if their number is known.

    Memory that is allocated and not yet written takes no room, so a number that is too high costs nothing.

    Args:
        first: the tensor of the first batch, shape (items, ...).
        n_rows: the expected number of rows.
    """

    def __init__(self, first: Tensor, n_rows: int):
        self.shape, self.dtype, self.n_rows = first.shape[1:], first.dtype, 0
        self._rows, self._n_spare = self._allocated(n_rows), len(first)

    def _allocated(self, n_rows: int) -> Tensor:
        return torch.empty((n_rows, *self.shape), dtype=self.dtype)

    def add(self, rows: Tensor) -> None:
        """Append the rows of a batch."""
        end = self.n_rows + rows.shape[0]
        if end > self._rows.shape[0]:
            former, self._rows = self._rows, self._allocated(max(end, len(self._rows) * 3 // 2))
            self._rows[: self.n_rows] = former[: self.n_rows]
        self._rows[self.n_rows : end] = rows
        self.n_rows = end

    def whole(self) -> Tensor:
        """All rows. Memory of less than a batch may be unused; more is freed, which needs a copy."""
        n_unused = len(self._rows) - self.n_rows
        if not n_unused:
            return self._rows
        rows = self._rows[: self.n_rows]
        return rows if n_unused < self._n_spare else rows.clone()


class LateBlock(Block):
    """Rows from a CUDA device; those of a batch arrive while the next one is computed."""

    _coming: Arrival | None = None

    def add(self, rows: Tensor) -> None:
        former, self._coming = self._coming, Arrival(rows)
        if former is not None:
            super().add(former.wait())

    def whole(self) -> Tensor:
        if self._coming is not None:
            super().add(self._coming.wait())
            self._coming = None
        return super().whole()
