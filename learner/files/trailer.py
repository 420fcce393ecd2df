"""The last line of a checkpoint file: version of the format, length and checksum of the content."""

from __future__ import annotations

import io
import os
import zlib

from learner.files import archive

FORMAT = 2  # version of the format; increased when older versions cannot read a file
MAGIC = b"plainlearner checkpoint"
ANOTHER = "Use another checkpoint."
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # torch's magic number, pickled
REWRITE = "write it again, torch.save(torch.load(path, weights_only=True), path), and load that."


def trailer(length: int, crc: int, version: int = FORMAT) -> bytes:
    """The last line of a file. Its length is the same in every version, and it has its own checksum."""
    line = b"\n%s %04d %020d %08x" % (MAGIC, version, length, crc)
    return b"%s %08x\n" % (line, zlib.crc32(line))


TRAILER_SIZE = len(trailer(0, 0))


def check_complete(file: io.BufferedReader) -> int:
    """Check trailer, length and checksum; returns the length of the payload in bytes."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ValueError(f"it is empty (0 bytes). {ANOTHER}")
    start = file.read(16)
    file.seek(max(0, size - TRAILER_SIZE))
    last = file.read()
    version, length, crc = fields_of(last)
    if last != trailer(length, crc, version):
        raise ValueError(without_trailer(start, size))
    if version > FORMAT:
        raise ValueError(
            f"it has format {version}, but this version of plainlearner reads formats up to {FORMAT}: "
            "install a newer version."
        )
    if size - TRAILER_SIZE != length:
        raise ValueError(f"it has {size} bytes, but {length + TRAILER_SIZE} were written. {ANOTHER}")
    if archive.sum_between(file, 0, length) != crc:
        raise ValueError(
            f"its {size} bytes are not those that were written (the checksum differs). {ANOTHER}"
        )
    return length


def fields_of(last: bytes) -> tuple[int, int, int]:
    """Version, length and checksum in a trailer; zeros if it is not a trailer."""
    try:
        version, length, crc = last.split()[-4:-1]
        return int(version), int(length), int(crc, 16)
    except ValueError:
        return 0, 0, 0


def without_trailer(start: bytes, size: int) -> str:
    """Describe a file that does not end with our trailer."""
    if start.startswith(b"PK\x03\x04"):
        return (
            f"its end is missing or altered: it was cut short at {size} bytes when it was written or copied, "
            f"or is a file that plain torch.save wrote. {ANOTHER}"
        )
    if start.startswith(LEGACY):
        return f"it is in torch's format from before version 1.6: {REWRITE}"
    if start[8:9] == b"{":  # after the length of its header
        return "it looks like a safetensors file: model.load_state_dict(safetensors.torch.load_file(path))."
    return f"it is not a checkpoint of ours (starts with {start.decode('latin1')!r}). {ANOTHER}"
