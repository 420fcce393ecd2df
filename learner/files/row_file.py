"""A `.npy` file that is written batch by batch."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.history.paths import followed
from learner.files.checkpoint_file import NO_SPACE

#: bfloat16 and the kinds of float8, which NumPy does not have
NOT_IN_NUMPY: set[torch.dtype] = {
    torch.bfloat16,
    *(kind for name, kind in vars(torch).items() if name.startswith("float8")),
}


class RowFile:
    """Rows in a `.npy` file, which gets its name when it is complete.

    Args:
        path: the name of the complete file; its folder is created.
        first: the tensor of the first batch, shape (items, ...). NumPy has no bfloat16 and no float8, so
            these are written as float32.
        n_rows: the expected number of rows, for which room is reserved: a full disk shows before the pass,
            and each batch is written more quickly.

    Raises:
        OSError: the file cannot be created, or the disk has no room for it.
    """

    def __init__(self, path: Path, first: Tensor, n_rows: int):
        self.path, self.shape, self.dtype, self.n_rows = path, first.shape[1:], first.dtype, 0
        self._numpy_dtype = as_array(first[:0]).dtype
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = followed(path).with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._part.open("wb")
        try:
            self._reserve(n_rows)
            self._write_header()
        except BaseException:
            self.discard()
            raise

    def _reserve(self, n_rows: int) -> None:
        if hasattr(os, "posix_fallocate"):  # macOS and Windows have none
            n_bytes = n_rows * self.shape.numel() * self._numpy_dtype.itemsize
            try:
                os.posix_fallocate(self._file.fileno(), 0, max(n_bytes, 1))
            except OSError as error:
                if error.errno not in NO_SPACE:
                    return  # the file system cannot reserve room
                fix = f"no room for {n_rows:,} rows of {n_bytes:,} bytes in all; write to another disk"
                raise OSError(error.errno, fix, str(self.path)) from None

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
        self.n_rows += rows.shape[0]  # `len` takes ten times as long

    def whole(self) -> np.ndarray[Any, Any]:
        """Complete the file and give it its name; returns its array, which is read when it is used."""
        self._file.truncate()  # what was reserved and not written
        self._write_header()
        self._file.close()
        self._part.replace(followed(self.path))
        is_empty = not self.n_rows * self.shape.numel()  # which cannot be mapped
        return np.load(self.path, mmap_mode=None if is_empty else "r", allow_pickle=False)

    def discard(self) -> None:
        """Remove the file if it is not complete."""
        with suppress(OSError):  # of a full disk, which was raised before
            self._file.close()
        self._part.unlink(missing_ok=True)


def as_array(rows: Tensor) -> np.ndarray[Any, Any]:
    """A tensor as an array in C order."""
    return np.ascontiguousarray((rows.float() if rows.dtype in NOT_IN_NUMPY else rows).numpy(force=True))
