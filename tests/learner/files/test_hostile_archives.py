"""Archives that are not what they seem are refused before memory is allocated."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from tiny import names_in
from upper.hostile import refused, seal

from learner.files import checkpoint_file

PICKLES = {
    "memory for what is remembered": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\xffabc.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a class by names on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "an old instance": b"(S'ls'\nios\nsystem\n.",
    "an old persistent id": b"Pstorage\n.",
    "a state for a name of ours": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "a call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "a call of a text": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "a list for a key": b"\x80\x02}]K\x01s.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "an end of nothing": b".",
    "noise": bytes(range(256)),
    "a name with a dot": b"\x80\x02ctorch\nfloat32.__class__\n.",
}


def rebuilt(shape: str, stride: str, n_items: int = 4, offset: int = 0, key: str = "0") -> bytes:
    """A pickle of one tensor with the given sizes."""

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def number(value: int) -> bytes:
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def numbers(words: str) -> bytes:
        return b"(" + b"".join(number(int(word)) for word in words.split()) + b"t"

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(n_items) + b"tQ"
    )
    arguments = (
        b"("
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)Rt"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02}(" + text("format") + b"K\x01" + text("model") + tensor + b"u."


PICKLES |= {
    "a storage larger than its piece": rebuilt("4", "1", n_items=1 << 40),
    "a storage of less than nothing": rebuilt("4", "1", n_items=-1),
    "a piece that is not there": rebuilt("4", "1", key="7"),
    "a piece by a path": rebuilt("4", "1", key="../../../etc/passwd"),
    "a shape beyond the storage": rebuilt("5", "1"),
    "an absurd shape": rebuilt(f"{1 << 40} {1 << 40}", "0 0"),
    "steps beyond the storage": rebuilt("2", "4"),
    "steps backwards": rebuilt("2", "-1"),
    "a start beyond the storage": rebuilt("1", "1", offset=4),
    "a start before the storage": rebuilt("1", "1", offset=-1),
    "fewer steps than sizes": rebuilt("2 2", "1"),
}


def archive(
    content: bytes, change: Callable[[bytes], bytes] = lambda payload: payload, **more: bytes
) -> bytes:
    """An archive like those of torch.save, with a pickle and the data of four numbers."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        entries = {"archive/data.pkl": content, "archive/version": b"3\n", "archive/byteorder": b"little"}
        for name, data in {**entries, "archive/data/0": bytes(16), **more}.items():
            made.writestr(name, data)
    return change(buffer.getvalue())


def test_the_archive_from_which_hostile_ones_are_made_is_read(tmp_path):
    path = seal(tmp_path / "one", archive(rebuilt("2 2", "2 1")))
    assert checkpoint_file.read(path)["model"].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_refers_to_missing_data_is_refused(tmp_path, tight_memory, name):
    message = refused(seal(tmp_path / "one", archive(PICKLES[name])))
    assert "nothing in the file was run" in message


def packed(method: int) -> bytes:
    """An archive whose data is compressed, 64 MB in a few kB: a zip bomb."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("archive/data.pkl", rebuilt("4", "1", n_items=1 << 24))
        made.writestr("archive/data/0", bytes(1 << 26))
    return buffer.getvalue()


def in_directory(
    at: int, form: str, value: Any, entry: bytes = b"archive/data/0"
) -> Callable[[bytes], bytes]:
    """A change of one field of an entry in the directory."""

    def change(payload: bytes) -> bytes:
        changed = bytearray(payload)
        struct.pack_into(form, changed, payload.rindex(entry) - 46 + at, value)
        return bytes(changed)

    return change


def overlapping(payload: bytes) -> bytes:
    """Let a second entry refer to the data of the first."""
    header = payload.index(b"PK\x03\x04")
    return in_directory(42, "<L", header, b"archive/byteorder")(payload)


GOOD = rebuilt("4", "1")


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "packed": lambda: packed(zipfile.ZIP_DEFLATED),
    "a bomb in a bomb": lambda: archive(GOOD, packed_again, **{"archive/more": packed(zipfile.ZIP_BZIP2)}),
    "name that leaves": lambda: archive(GOOD, **{"archive/../../evil": b"x"}),
    "absolute name": lambda: archive(GOOD, **{"/etc/evil": b"x"}),
    "name of a drive": lambda: archive(GOOD, **{"archive/c:evil": b"x"}),
    "name with a backslash": lambda: archive(GOOD, **{"archive/..\\evil": b"x"}),
    "name twice": lambda: archive(GOOD, **{"archive/DATA.PKL": b"x"}),
    "two folders": lambda: archive(GOOD, **{"other/data.pkl": b"x"}),
    "a program for TorchScript": lambda: archive(GOOD, **{"archive/constants.pkl": b"x"}),
    "no pickle": lambda: archive(GOOD).replace(b"data.pkl", b"data.txt"),
    "absurd size": lambda: archive(GOOD, in_directory(24, "<L", 0xFFFFFFF0)),
    "absurd size, twice": lambda: archive(GOOD, both_sizes),
    "large size without its field": lambda: archive(GOOD, in_directory(24, "<L", 0xFFFFFFFF)),
    "encrypted": lambda: archive(GOOD, in_directory(8, "<H", 1)),
    "overlapping": lambda: archive(GOOD, overlapping),
    "outside": lambda: archive(GOOD, in_directory(42, "<L", 0x7FFFFFFF)),
    "other name in its header": lambda: archive(GOOD).replace(b"archive/data/0", b"archive/data/1", 1),
    "bytes before": lambda: b"x" * 10 + archive(GOOD),
    "bytes after": lambda: archive(GOOD) + b"x",
    "no end": lambda: archive(GOOD)[:-22],
    "an end within": lambda: archive(GOOD) + archive(b"")[-22:],
    "fewer entries than stated": lambda: archive(GOOD, more_entries),
    "a pickle only": lambda: b"PK\x03\x04" + GOOD,
    "short": lambda: b"PK",
    "empty": lambda: b"",
}


def packed_again(payload: bytes) -> bytes:
    """Mark an entry as compressed."""
    return in_directory(10, "<H", zipfile.ZIP_BZIP2, b"archive/more")(payload)


def both_sizes(payload: bytes) -> bytes:
    """A size beyond the file, in both places."""
    larger = in_directory(20, "<L", 0x7FFFFFFF)(payload)
    return in_directory(24, "<L", 0x7FFFFFFF)(larger)


def more_entries(payload: bytes) -> bytes:
    """State one entry too many."""
    changed = bytearray(payload)
    for at in (8, 10):
        struct.pack_into("<H", changed, len(payload) - 22 + at, 5)
    return bytes(changed)


ODD = {
    "no version": lambda: archive(GOOD).replace(b"archive/version", b"archive/verse.."),
    "another version": lambda: archive(GOOD, **{"archive/version": b"999"}),
    "no number for a version": lambda: archive(GOOD, **{"archive/version": b"x"}),
    "another order of bytes": lambda: archive(GOOD, **{"archive/byteorder": b"middle"}),
    "no order of bytes": lambda: archive(GOOD, **{"archive/byteorder": b"\xff"}),
    "another alignment": lambda: archive(GOOD, **{"archive/.storage_alignment": b"x"}),
}


@pytest.mark.parametrize("name", ODD)
def test_an_archive_that_torch_cannot_read_is_reported_in_one_line(tmp_path, name):
    message = refused(seal(tmp_path / "one", ODD[name]()))
    assert "torch cannot read it (" in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_another_program_is_refused_before_memory_is_allocated(tmp_path, tight_memory, name):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    message = refused(seal(folder / "one", ARCHIVES[name]()))
    assert "not an archive that can be read safely" in message
    assert names_in(tmp_path) == ["a"]
    assert names_in(folder) == ["one"]
