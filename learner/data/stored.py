"""Arrays on disk and read-only arrays, which are copied batch by batch, never as a whole."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Whole numbers without a sign for which torch has a type, but next to no operations: the next that holds all.
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}


class Stored:
    """A NumPy array that stays where it is; it is read as a tensor is, by a slice or by rows, into a copy.

    Args:
        array: memory-mapped, or one that may not be written; shape (items, ...), of a type that torch takes.

    Raises:
        TypeError: torch has no such type.
    """

    device = torch.device("cpu")

    def __init__(self, array: Any):
        import numpy

        self.array = numpy.asarray(array)  # a map's own class would make every copy one of its kind
        self.native = self.array.dtype.newbyteorder("=")
        self.dtype = settled(torch.as_tensor(numpy.empty(0, self.native)).dtype)
        self.shape = torch.Size(self.array.shape)
        self.ndim = len(self.shape)
        self.file = file_under(array)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """A copy of the items of a slice, read in one piece where its step is 1."""
        import numpy

        self.check()
        return self._as_tensor(numpy.array(self.array[rows], dtype=self.native, order="C"))

    def read_into(self, target: Tensor, start: int) -> None:
        """Fill a tensor with the items from one on, without a copy in between."""
        import numpy

        self.check()
        part = self.array[start : start + len(target)]
        if target.dtype == torch.bfloat16:  # which NumPy does not know
            target.copy_(self._as_tensor(numpy.array(part, dtype=self.native)))
        else:
            numpy.copyto(target.numpy(), part, casting="same_kind")

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """A copy of the items of these numbers, as `Tensor.index_select` gives it for dimension 0."""
        import numpy

        self.check()
        return self._as_tensor(numpy.take(self.array, rows.numpy(), axis=dim).astype(self.native, copy=False))

    def sample(self, n_items: int) -> Tensor:
        """The first values of some items from the first to the last, shape (items, at most 4)."""
        import numpy

        self.check()
        picked = self.array[:: max(1, len(self) // n_items)][:n_items]
        firsts = [numpy.asarray(item).flat[:4] for item in picked]
        return self._as_tensor(numpy.array(firsts, dtype=self.native))

    def check(self) -> None:
        """Refuse to read a file that has become shorter than its map, which would kill the process."""
        if self.file is not None and self.file.map.size() < self.file.n_bytes:
            raise OSError(
                f"the file under {self!r} has {self.file.map.size():,} bytes, but its memory map needs "
                f"{self.file.n_bytes:,}: it was cut short after it was opened, and to read on would kill the "
                "process (SIGBUS). Write the file again, open it, and resume from a checkpoint."
            )

    def _as_tensor(self, copied: Any) -> Tensor:
        return torch.from_numpy(copied).to(self.dtype)

    def __deepcopy__(self, memo: Any) -> Stored:
        return self  # nothing here ever changes, and a copy would read all of it

    def __reduce__(self) -> Any:  # to another process: a map is opened again there
        if self.file is None or self.file.name is None:
            return Stored, (self.array.copy(),)
        place = (self.array.dtype.str, self.array.shape, self.array.strides, self.file.first)
        return opened_again, (self.file.name, *place)

    def __repr__(self) -> str:
        kind = "read-only array" if self.file is None else "memory map"
        where = f" of {self.file.name}" if self.file is not None and self.file.name else ""
        return f"a {kind}{where} of shape {tuple(self.shape)} and {self.array.dtype}"


@dataclass
class File:
    """The file under a memory map, as it was opened: also where its name is now another's."""

    map: mmap.mmap
    n_bytes: int  #: that it must have
    first: int  #: byte of the first item
    name: str | None


def file_under(array: Any) -> File | None:
    """The file that an array is mapped from, if it is."""
    import numpy

    root = array
    while isinstance(getattr(root, "base", None), numpy.ndarray):
        root = root.base
    found = getattr(root, "base", None)
    found = getattr(found, "obj", found)  # of a memoryview
    if not isinstance(found, mmap.mmap) or not array.size:
        return None
    offset = getattr(root, "offset", 0)
    begin = address(numpy.frombuffer(found, numpy.uint8))
    skipped = offset - offset % mmap.ALLOCATIONGRANULARITY  # where in the file the map begins
    name = getattr(root, "filename", None)
    n_bytes, first = skipped + last_byte(array) - begin, skipped + address(array) - begin
    return File(found, n_bytes, first, None if name is None else str(Path(name).resolve()))


def opened_again(name: str, dtype: str, shape: Any, strides: Any, first: int) -> Stored:
    """What was mapped from a file, in another process."""
    import numpy

    whole = numpy.memmap(name, numpy.uint8, "r")
    return Stored(numpy.ndarray(shape, dtype, whole, first, strides))


def address(array: Any) -> int:
    """Where its first item is in memory."""
    return array.__array_interface__["data"][0]


def last_byte(array: Any) -> int:
    """The address behind the last byte that an array may be read at."""
    reach = sum(
        (size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True) if stride > 0
    )
    return address(array) + reach + array.itemsize


def settled(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: torch's default for float64 of NumPy, a signed one for whole numbers without.

    Raises:
        TypeError: for uint64 there is none that holds all.
    """
    if dtype == torch.float64:
        return torch.get_default_dtype()
    return signed(dtype)


def signed(dtype: torch.dtype) -> torch.dtype:
    """The type, or the next wider one with a sign where torch has next to no operations.

    Raises:
        TypeError: for uint64 there is none that holds all.
    """
    if dtype == torch.uint64:
        raise TypeError("torch has next to no operations for uint64")
    return WIDER.get(dtype, dtype)
