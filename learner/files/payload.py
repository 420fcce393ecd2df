"""Check the content of a checkpoint file before any of it is created, then let torch load it.

`weights_only=True` runs no code, but it allocates any size that a file contains, and calls any function that
a program has registered with torch as safe. So the zip directory and the pickle are checked first, and may
contain only what `write` produces.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import textwrap
from collections import OrderedDict
from typing import Any, NamedTuple

import torch

from learner.files.archive import NOT_RUN, Record, directory
from learner.files.unpacking import DTYPES

OPCODES = frozenset(
    """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    GLOBAL REDUCE BINPERSID EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE
    TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT BINGET LONG_BINGET
    """.split()  # noqa: SIM905 - a list of thirty quoted words reads worse
)
ITEM_SIZES = {  # bytes of an item, by torch's names of storages in a file
    **dict.fromkeys(["UntypedStorage", "BoolStorage", "ByteStorage", "CharStorage"], 1),
    **dict.fromkeys(["ShortStorage", "HalfStorage", "BFloat16Storage"], 2),
    **dict.fromkeys(["IntStorage", "FloatStorage"], 4),
    **dict.fromkeys(["LongStorage", "DoubleStorage", "ComplexFloatStorage"], 8),
    "ComplexDoubleStorage": 16,
}


def load(file: io.BufferedReader, length: int, *, is_ours: bool = True) -> Any:
    """Load the payload, the first bytes of a file, onto the CPU.

    Args:
        file: opened to read bytes.
        length: length of the payload, in bytes.
        is_ours: whether `write` wrote it. A state dict of torch may also have an `OrderedDict` with an
            attribute, and parameters.
    """
    records = directory(file, length)
    check_pickle(records, is_ours=is_ours)
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError:  # its message explains how to disable the protection
        raise ValueError(f"torch finds more than tensors and plain values in it. {NOT_RUN}") from None
    except (RuntimeError, ValueError) as error:
        if "allocate" in str(error):  # a file that does not fit in memory is not damaged
            raise
        message = textwrap.shorten(str(error), 160)
        raise ValueError(f"torch cannot read it ({message}). Use another checkpoint.") from None


def check_pickle(records: dict[str, Record], *, is_ours: bool = True) -> None:
    """Read the pickle with stand-ins for the few names that it may contain. They create nothing."""
    content = records["data.pkl"].read()
    check_opcodes(content, OPCODES if is_ours else OPCODES | {"BUILD"})
    try:
        (StandIns if is_ours else StandInsOfTorch)(content, records).load()
    except (pickle.UnpicklingError, TypeError, IndexError, KeyError, AttributeError, EOFError) as error:
        raise ValueError(f"its data are invalid ({error}). {NOT_RUN}") from None


def check_opcodes(content: bytes, allowed: frozenset[str]) -> None:
    """Refuse a pickle with operations that plain data does not need."""
    steps = pickletools.genops(content)
    while True:
        try:
            opcode, argument, at = next(steps)
        except StopIteration:
            return
        except ValueError as error:
            raise ValueError(f"its data are invalid ({error}). {NOT_RUN}") from None
        # a pickle numbers the objects in its memo; a number larger than its position only reserves memory
        if opcode.name not in allowed or (opcode.name == "LONG_BINPUT" and int(argument or 0) > (at or 0)):
            raise ValueError(f"its data use {opcode.name}. {NOT_RUN}")


class StandIns(pickle.Unpickler):
    """An unpickler that creates no tensor, and accepts only the names that torch.save writes."""

    def __init__(self, content: bytes, records: dict[str, Record]):
        super().__init__(io.BytesIO(content))
        self.records = records

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return Rebuild()
        if (module, name) == ("collections", "OrderedDict"):
            return NoHooks()
        if module in ("torch", "torch.storage") and name in ITEM_SIZES:
            return StorageKind(ITEM_SIZES[name])
        if module == "torch" and f"torch.{name}" in DTYPES:
            return DTYPES[f"torch.{name}"]
        raise ValueError(f"it names {module}.{name}. {NOT_RUN}")

    def persistent_load(self, pid: Any, /) -> Storage:
        word, kind, key, _, n_items = pid
        record = self.records.get(f"data/{key}")
        if word != "storage" or not isinstance(kind, StorageKind) or record is None or not whole(n_items):
            raise ValueError(f"its data refer to a record {key!r} that is missing. {NOT_RUN}")
        if n_items * kind.item_size != record.size:
            raise ValueError(f"its data give a wrong size for the record {key!r}. {NOT_RUN}")
        return Storage(record.size, kind.item_size)


class StandInsOfTorch(StandIns):
    """The same for a state dict of torch, which also has `OrderedDict`s with items, and parameters."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict  # BUILD sets attributes of it, and of no other stand-in
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return Parameter()
        return super().find_class(module, name)


class StorageKind(NamedTuple):  # not a dataclass, whose attributes BUILD could set
    """Stands for a class of storages."""

    item_size: int


class Storage(NamedTuple):
    """Stands for the bytes of a tensor."""

    n_bytes: int
    item_size: int


class NoHooks:
    """Stands for the OrderedDict of a tensor's hooks, which is empty in a file."""

    __slots__ = ()

    def __call__(self) -> None:
        return None


class Parameter:
    """Stands for the function that makes a parameter from a tensor."""

    __slots__ = ()

    def __call__(self, tensor: Any, requires_grad: Any, hooks: Any) -> None:
        if tensor is not None or type(requires_grad) is not bool:
            raise ValueError(f"its data build a parameter from something that is not a tensor. {NOT_RUN}")


class Rebuild:
    """Stands for the function that makes a tensor. It checks that the tensor fits in its storage."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> None:
        dtypes = [value for value in more if isinstance(value, torch.dtype)]
        item_size = dtypes[0].itemsize if dtypes else getattr(storage, "item_size", 1)
        fits = isinstance(storage, Storage) and type(shape) is type(strides) is tuple
        if not fits or len(shape) != len(strides) or not all(map(whole, (offset, *shape, *strides))):
            raise ValueError(f"its data build a tensor from something that is not a storage. {NOT_RUN}")
        n_items, last = 1, offset
        for length, stride in zip(shape, strides, strict=True):
            n_items, last = n_items * length, last + (length - 1) * stride
        n_there = storage.n_bytes // item_size
        if n_items > n_there or (n_items and last >= n_there):
            raise ValueError(f"its data build a tensor of shape {shape} from {n_there} numbers. {NOT_RUN}")


def whole(value: Any) -> bool:
    """Is this a whole number, 0 or more?"""
    return type(value) is int and value >= 0
