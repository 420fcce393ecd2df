"""Arrays on disk and read-only arrays, which are copied batch by batch, never as a whole."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Unsigned types for which torch has few operations, and the smallest signed type that holds their values.
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}


class Stored:
    """A NumPy array that is not copied as a whole. A slice or some rows of it are copied to a tensor.

    Args:
        array: memory-mapped or read-only, of shape (items, ...) and a dtype that torch supports.

    Raises:
        TypeError: torch does not support the dtype.
    """

    device = torch.device("cpu")

    def __init__(self, array: Any):
        self.array = np.asarray(array)  # without the class memmap, which copies would keep
        self.native = self.array.dtype.newbyteorder("=")
        self.dtype = settled(torch.as_tensor(np.empty(0, self.native)).dtype)
        self.shape = torch.Size(self.array.shape)
        self.ndim = len(self.shape)
        self.file = file_under(array)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """A copy of the items of a slice, read in one piece if its step is 1."""
        self.check()
        return self._as_tensor(np.array(self.array[rows], dtype=self.native, order="C"))

    def read_into(self, target: Tensor, start: int) -> None:
        """Fill a tensor with the items from number `start` on, without a temporary copy."""
        self.check()
        part = self.array[start : start + len(target)]
        if target.dtype == torch.bfloat16:  # NumPy does not have this dtype
            target.copy_(self._as_tensor(np.array(part, dtype=self.native)))
        else:
            np.copyto(target.numpy(), part, casting="same_kind")

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """A copy of the items with these numbers, like `Tensor.index_select` for dimension 0."""
        self.check()
        return self._as_tensor(np.take(self.array, rows.numpy(), axis=dim).astype(self.native, copy=False))

    def sample(self, n_items: int) -> Tensor:
        """The first values of some items from the first to the last, shape (items, at most 4)."""
        self.check()
        picked = self.array[:: max(1, len(self) // n_items)][:n_items]
        firsts = [np.asarray(item).flat[:4] for item in picked]
        return self._as_tensor(np.array(firsts, dtype=self.native))

    def check(self) -> None:
        """Raise an error if the file is shorter than its map, because reading it would kill the process."""
        if self.file is not None and self.file.map.size() < self.file.n_bytes:
            raise OSError(
                f"the file under {self!r} has {self.file.map.size():,} bytes, but its memory map needs "
                f"{self.file.n_bytes:,}: it was cut short after it was opened, and reading it would kill the "
                "process (SIGBUS). Write the file again, open it, and resume from a checkpoint."
            )

    def _as_tensor(self, copied: Any) -> Tensor:
        return torch.from_numpy(copied).to(self.dtype)

    def __deepcopy__(self, memo: Any) -> Stored:
        return self  # it never changes, and a copy would read the whole array

    def __reduce__(self) -> Any:  # another process opens the map again
        if self.file is None or self.file.name is None:
            return Stored, (self.array.copy(),)
        place = (self.array.dtype.str, self.array.shape, self.array.strides, self.file.first)
        return opened_again, (self.file.name, *place)

    def __repr__(self) -> str:
        kind = "read-only array" if self.file is None else "memory map"
        where = f" of {self.file.name}" if self.file is not None and self.file.name else ""
        return f"a {kind}{where} of shape {tuple(self.shape)} with dtype {self.array.dtype}"


@dataclass
class File:
    """The file of a memory map, as it was opened; its name may belong to another file now."""

    map: mmap.mmap
    n_bytes: int  #: the smallest size that it may have
    first: int  #: the byte of the first item
    name: str | None


def file_under(array: Any) -> File | None:
    """The file that an array is mapped from; None if it is not mapped."""
    root = array
    while isinstance(getattr(root, "base", None), np.ndarray):
        root = root.base
    found = getattr(root, "base", None)
    found = getattr(found, "obj", found)  # of a memoryview
    if not isinstance(found, mmap.mmap) or not array.size:
        return None
    offset = getattr(root, "offset", 0)
    start = address(np.frombuffer(found, np.uint8))
    skipped = offset - offset % mmap.ALLOCATIONGRANULARITY  # the first byte of the file in the map
    name = getattr(root, "filename", None)
    n_bytes, first = skipped + last_byte(array) - start, skipped + address(array) - start
    return File(found, n_bytes, first, None if name is None else str(Path(name).resolve()))


def opened_again(name: str, dtype: str, shape: Any, strides: Any, first: int) -> Stored:
    """Map the file again in another process."""
    whole = np.memmap(name, np.uint8, "r")
    return Stored(np.ndarray(shape, dtype, whole, first, strides))


def address(array: Any) -> int:
    """The address of the first item in memory."""
    return array.__array_interface__["data"][0]


def last_byte(array: Any) -> int:
    """The address after the last byte of an array."""
    reach = sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True) if step > 0)
    return address(array) + reach + array.itemsize


def settled(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: torch's default dtype for float64, a signed one for unsigned integers.

    Raises:
        TypeError: it is uint64, for which no signed dtype is wide enough.
    """
    if dtype == torch.float64:
        return torch.get_default_dtype()
    return signed(dtype)


def signed(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or the next wider signed one for unsigned integers.

    Raises:
        TypeError: it is uint64, for which no signed dtype is wide enough.
    """
    if dtype == torch.uint64:
        raise TypeError("torch has very few operations for uint64")
    return WIDER.get(dtype, dtype)
