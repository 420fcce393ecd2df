"""Checksums: combined from pieces, they equal those of the whole."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from learner.files.checksums import joined


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_joined_sums_are_the_sum_of_what_is_joined(pieces):
    crc = 0
    for piece in pieces:
        crc = joined(crc, zlib.crc32(piece), len(piece))
    assert crc == zlib.crc32(b"".join(pieces))


def test_a_long_piece_is_joined_too():
    piece = bytes(range(256)) * 40_000
    assert joined(zlib.crc32(b"before"), zlib.crc32(piece), len(piece)) == zlib.crc32(b"before" + piece)
