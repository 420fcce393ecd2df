"""Append the rows of batches to one tensor in memory, or to a `.npy` file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Block:
    """Rows in one piece of memory, which is allocated once if their number is known.

    Memory that is allocated and not yet written takes no room, so a number that is too high costs nothing.
    The memory is NumPy's because NumPy can make it smaller in place.

    Args:
        first: the tensor of the first batch, shape (items, ...).
        n_rows: the expected number of rows.
    """

    def __init__(self, first: Tensor, n_rows: int):
        self.shape, self.dtype, self.n_rows = first.shape[1:], first.dtype, 0
        self._bytes_per_row = self.shape.numel() * first.element_size()
        self._memory = np.empty(n_rows * self._bytes_per_row, np.uint8)
        self._rows = self._as_rows(n_rows)

    def _as_rows(self, n_rows: int) -> Tensor:
        return torch.from_numpy(self._memory).view(self.dtype).view(n_rows, *self.shape)

    def _resize(self, n_rows: int) -> None:
        self._memory.resize(n_rows * self._bytes_per_row, refcheck=False)  # `_rows` is not used after this
        self._rows = self._as_rows(n_rows)

    def add(self, rows: Tensor) -> None:
        """Append the rows of a batch."""
        end = self.n_rows + len(rows)
        if end > len(self._rows):
            self._resize(max(end, len(self._rows) * 3 // 2))
        self._rows[self.n_rows : end] = rows
        self.n_rows = end

    def whole(self) -> Tensor:
        """All rows; their memory has exactly their size."""
        if len(self._rows) > self.n_rows:
            self._resize(self.n_rows)
        return self._rows


class RowFile:
    """Rows in a `.npy` file, which gets its name when it is complete.

    Args:
        path: the name of the complete file; its folder is created.
        first: the tensor of the first batch, shape (items, ...). NumPy has no bfloat16 and no float8, so
            these are written as float32.
    """

    def __init__(self, path: Path, first: Tensor):
        self.path, self.shape, self.dtype, self.n_rows = path, first.shape[1:], first.dtype, 0
        self._numpy_dtype = as_array(first[:0]).dtype
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._part.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write the header; NumPy pads it, so that its length does not depend on the number of rows."""
        kind = np.lib.format.dtype_to_descr(self._numpy_dtype)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": kind, "fortran_order": False, "shape": (self.n_rows, *self.shape)}
        )

    def add(self, rows: Tensor) -> None:
        """Append the rows of a batch."""
        self._file.write(as_array(rows).data)
        self.n_rows += len(rows)

    def whole(self) -> np.ndarray[Any, Any]:
        """Complete the file and give it its name; returns its array, which is read when it is used."""
        self._write_header()
        self._file.close()
        self._part.replace(self.path)
        is_empty = not self.n_rows * self.shape.numel()  # which cannot be mapped
        return np.load(self.path, mmap_mode=None if is_empty else "r", allow_pickle=False)

    def discard(self) -> None:
        """Remove the file if it is not complete."""
        with suppress(OSError):  # of a full disk, which was raised before
            self._file.close()
        self._part.unlink(missing_ok=True)


def as_array(rows: Tensor) -> np.ndarray[Any, Any]:
    """A tensor as an array in C order."""
    rows = rows.detach().to("cpu").resolve_conj().resolve_neg()
    is_known = rows.dtype is not torch.bfloat16 and "float8" not in str(rows.dtype)
    return np.ascontiguousarray((rows if is_known else rows.float()).numpy())
