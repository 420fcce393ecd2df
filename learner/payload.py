"""Look through what a checkpoint file holds before any of it is made, then let torch load it.

`weights_only=True` runs no code, but makes whatever sizes a file names, and calls whatever a program has
told torch to be safe. So the zip directory and the pickle are read through first, and may hold nothing but
what `files.write` makes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

import torch

from learner.plain import DTYPES

END = struct.Struct("<4s4H2LH")  # the zip format's records, as PKWARE's APPNOTE.TXT 6.3 lays them out
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
IN_64 = 0xFFFFFFFF  # a size that stands in the entry's extra field instead
FLAGS = 0x808  # what torch sets: names in UTF-8, sizes told after the data

OPCODES = frozenset(
    """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    GLOBAL REDUCE BINPERSID EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE
    TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT BINGET LONG_BINGET
    """.split()  # noqa: SIM905 - a list of thirty quoted words reads worse
)
ITEM_SIZES = {  # bytes of an item, by the names that torch gives its storages in a file
    **dict.fromkeys(["UntypedStorage", "BoolStorage", "ByteStorage", "CharStorage"], 1),
    **dict.fromkeys(["ShortStorage", "HalfStorage", "BFloat16Storage"], 2),
    **dict.fromkeys(["IntStorage", "FloatStorage"], 4),
    **dict.fromkeys(["LongStorage", "DoubleStorage", "ComplexFloatStorage"], 8),
    "ComplexDoubleStorage": 16,
}
NOT_RUN = "No checkpoint of ours does that; nothing in the file was run. Take another checkpoint."


def load(file: io.BufferedReader, length: int) -> Any:
    """Load the payload, the first bytes of a file, onto the CPU.

    Raises:
        ValueError: it holds something that is no plain data, or sizes that are not true.
    """
    records = directory(file, length)
    check_pickle(records)
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError:  # its words tell how to switch the safety off
        raise ValueError(f"torch finds more than tensors and plain values in it. {NOT_RUN}") from None


# The zip directory ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Where the content of one entry is."""

    name: str
    header: int
    start: int
    size: int
    file: io.BufferedReader

    def read(self) -> bytes:
        """The content."""
        return read_at(self.file, self.start, self.size)


def directory(file: io.BufferedReader, length: int) -> dict[str, Record]:
    """The records of the archive by their names below its one folder; every size in it is true."""
    try:
        start, size, n_entries = find_directory(file, length)
        records = list(entries(file, read_at(file, start, size), n_entries, start))
    except (struct.error, UnicodeDecodeError) as error:
        raise bad_zip(f"a record is cut ({error})") from None
    check_apart(records, start)
    names = [record.name for record in records]
    tops = {name.split("/")[0] for name in names}
    if len(tops) != 1 or len({name.lower() for name in names}) != len(names):  # torch looks in any case
        raise bad_zip("names come twice or lie in several folders")
    below = {record.name.partition("/")[2]: record for record in records}
    if "data.pkl" not in below or "constants.pkl" in below:
        raise bad_zip("it is no archive of torch.save")
    return below


def find_directory(file: io.BufferedReader, length: int) -> tuple[int, int, int]:
    """Start, size and number of entries of the directory, which must stand right before the archive's end."""
    end_at = length - END.size
    mark, *disks, n_entries, size, start, n_comment = END.unpack(read_at(file, end_at, END.size))
    if mark != b"PK\x05\x06" or n_comment:
        raise bad_zip("it does not end as one")
    locator_at, end = end_at - LOCATOR.size, end_at
    locator = LOCATOR.unpack(read_at(file, locator_at, LOCATOR.size))
    if locator[0] == b"PK\x06\x07":
        end = locator_at - END_64.size
        mark, _, _, _, *disks, _, n_entries, size, start = END_64.unpack(read_at(file, end, END_64.size))
        if mark != b"PK\x06\x06" or locator[2] != end:
            raise bad_zip("its two ends differ")
    if any(disks[:2]) or start + size != end:
        raise bad_zip("its directory is not where it says")
    return start, size, n_entries


def entries(file: io.BufferedReader, content: bytes, n_entries: int, end: int) -> Any:
    """Each entry of the directory, after a look at the header that stands before its data."""
    at = 0
    for _ in range(n_entries):
        mark, _, _, flags, method, _, _, _, packed, size, n_name, n_extra, n_comment, disk, _, _, header = (
            ENTRY.unpack_from(content, at)
        )
        name = content[at + ENTRY.size :][:n_name]
        extra = content[at + ENTRY.size + n_name :][:n_extra]
        size, packed, header = in_64(extra, size, packed, header)
        if mark != b"PK\x01\x02" or flags & ~FLAGS or method or disk or packed != size:
            raise bad_zip(f"{name!r} is packed or encrypted")
        check_name(name)
        start = header + LOCAL.size + check_header(file, header, name, end)
        yield Record(name.decode(), header, start, size, file)
        at += ENTRY.size + n_name + n_extra + n_comment
    if at != len(content):
        raise bad_zip("its directory is longer than its entries")


def in_64(extra: bytes, *values: int) -> list[int]:
    """The values, those that need it from the extra field for large files."""
    large = b""
    while extra:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == 1 and large:
            raise bad_zip("an entry has two sizes")
        large = extra[4 : 4 + size] if kind == 1 else large
        extra = extra[4 + size :]
    n_large = sum(value == IN_64 for value in values)
    told = iter(struct.unpack_from(f"<{n_large}Q", large))
    return [next(told) if value == IN_64 else value for value in values]


def check_name(name: bytes) -> None:
    """Refuse what would leave a folder."""
    if (
        name.startswith(b"/")
        or b"\\" in name
        or b":" in name
        or b".." in name.split(b"/")
        or b"/" not in name
    ):
        raise bad_zip(f"{name!r} is no name for an entry")


def check_header(file: io.BufferedReader, header: int, name: bytes, end: int) -> int:
    """The length of what stands between an entry's header and its data."""
    if header > end:
        raise bad_zip(f"{name!r} lies outside of it")
    mark, _, flags, method, *_, n_name, n_extra = LOCAL.unpack(read_at(file, header, LOCAL.size))
    told = read_at(file, header + LOCAL.size, n_name)
    if mark != b"PK\x03\x04" or flags & ~FLAGS or method or told != name:
        raise bad_zip(f"{name!r} has another header than entry")
    return n_name + n_extra


def check_apart(records: list[Record], end: int) -> None:
    """Refuse entries that reach into each other or out of the archive: a bomb is made of them."""
    ordered = sorted(records, key=lambda record: record.header)
    for record, limit in zip(ordered, [*(after.header for after in ordered[1:]), end], strict=True):
        if record.start + record.size > limit:
            raise bad_zip(f"{record.name!r} is larger than its place")


def read_at(file: io.BufferedReader, at: int, size: int) -> bytes:
    """Bytes of the file, all of them there."""
    if at < 0:
        raise bad_zip("it is too short")
    file.seek(at)
    return file.read(size)


def bad_zip(what: str) -> ValueError:
    """The error for a payload that is no archive as torch writes them."""
    return ValueError(f"its content is no archive that can be read safely: {what}. {NOT_RUN}")


# The pickle -----------------------------------------------------------------------------------------------


def check_pickle(records: dict[str, Record]) -> None:
    """Go through the pickle with stand-ins for the few names it may hold, which make nothing."""
    content = records["data.pkl"].read()
    try:
        for opcode, argument, at in pickletools.genops(content):
            # a pickle numbers what it remembers; a number larger than its place reserves memory for nothing
            if opcode.name not in OPCODES or (
                opcode.name == "LONG_BINPUT" and int(argument or 0) > (at or 0)
            ):
                raise ValueError(f"its data use {opcode.name}. {NOT_RUN}")
        StandIns(content, records).load()
    except (pickle.UnpicklingError, TypeError, IndexError, KeyError, AttributeError, EOFError) as error:
        raise ValueError(f"its data make no sense ({error}). {NOT_RUN}") from None


class StandIns(pickle.Unpickler):
    """An unpickler that makes no tensor, and knows no name of the file's but those that torch.save writes."""

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
            raise ValueError(f"its data name a piece {key!r} that is not there. {NOT_RUN}")
        if n_items * kind.item_size != record.size:
            raise ValueError(f"its data give piece {key!r} another size than it has. {NOT_RUN}")
        return Storage(record.size, kind.item_size)


@dataclass(frozen=True, slots=True)
class StorageKind:
    """Stands for a class of storages."""

    item_size: int


@dataclass(frozen=True, slots=True)
class Storage:
    """Stands for the bytes of a tensor."""

    n_bytes: int
    item_size: int


class NoHooks:
    """Stands for the OrderedDict of a tensor's hooks, of which a file has none."""

    __slots__ = ()

    def __call__(self) -> None:
        return None


class Rebuild:
    """Stands for the function that makes a tensor: looks whether it lies within its storage."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> None:
        dtypes = [value for value in more if isinstance(value, torch.dtype)]
        item_size = dtypes[0].itemsize if dtypes else getattr(storage, "item_size", 1)
        fits = isinstance(storage, Storage) and type(shape) is type(strides) is tuple
        if not fits or len(shape) != len(strides) or not all(map(whole, (offset, *shape, *strides))):
            raise ValueError(f"its data make a tensor of what is none. {NOT_RUN}")
        n_items, last = 1, offset
        for length, stride in zip(shape, strides, strict=True):
            n_items, last = n_items * length, last + (length - 1) * stride
        n_there = storage.n_bytes // item_size
        if n_items > n_there or (n_items and last >= n_there):
            raise ValueError(f"its data make a tensor of shape {shape} out of {n_there} numbers. {NOT_RUN}")


def whole(value: Any) -> bool:
    """Is this a whole number that a size can be?"""
    return type(value) is int and value >= 0
