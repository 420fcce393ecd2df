"""Combine the checksums of pieces into the checksum of the whole, without reading the bytes again.

A CRC is a remainder of polynomials over the numbers 0 and 1: to put n bytes after others multiplies their
remainder by x to the power 8 n. zlib has this as `crc32_combine`, which Python does not expose. Here a
polynomial is a whole number, with its highest power in the lowest bit, as in the CRC-32 of zip files.

Source: Ross Williams, "A painless guide to CRC error detection algorithms", 1993, sections 4 to 10.
"""

from __future__ import annotations

from functools import cache

DIVISOR = 0xEDB88320  # of CRC-32, IEEE 802.3, without its power 32
ONE = 1 << 31


def joined(first: int, second: int, n_bytes: int) -> int:
    """The CRC-32 of two pieces, one after the other, from their sums and the bytes of the second one."""
    return times(first, shift(8 * n_bytes)) ^ second


@cache
def shift(power: int) -> int:
    """A power of x, as a remainder, computed by squaring: a file of any size takes about forty steps."""
    if power == 0:
        return ONE
    half = shift(power // 2)
    square = times(half, half)
    return times_x(square) if power % 2 else square


def times(one: int, other: int) -> int:
    """The product of two polynomials, as a remainder."""
    product = 0
    while one:
        if one & ONE:
            product ^= other
        one = one << 1 & 0xFFFFFFFF
        other = times_x(other)
    return product


def times_x(one: int) -> int:
    """A polynomial times x, as a remainder."""
    return one >> 1 ^ (DIVISOR if one & 1 else 0)
