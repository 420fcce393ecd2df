"""Let the C library keep the memory that steps free and take again."""

from __future__ import annotations

import ctypes
import os

# The parameters of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1  # of giving back the end of the heap
LARGEST_KEPT = 2**30  # bytes of a tensor; a larger one is taken from the system and given back each time


def keep_memory() -> bool:
    """Let this process keep memory that is freed, rather than give it back and take it again at each step.

    On a CPU the tensors of a step come from `malloc`. glibc gives the end of its heap, and large pieces, back
    to the system as they are freed; the next step takes them again, and the system fills each page with
    zeros. Whether it does depends on sizes and on what lies behind them, so it may cost much, or nothing.
    `docs/speed.md` has measurements. Call it once, before the first fit; it holds for the whole process.

    The price: the process does not become smaller again, so it stays at its peak. It is the same as to start
    Python with `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` set; unlike them it reaches no children.

    Returns:
        Was it done? Without glibc, as on macOS, Windows and Alpine Linux, nothing is done. Where jemalloc or
        tcmalloc was loaded in glibc's place, it has no effect.

    Source: mallopt(3).
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, ValueError, OSError):  # no confstr, no such name, no such function
        return False
    # both, since either ends glibc's own adapting of the other, which starts at 128 kB
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST_KEPT) and set_option(M_TRIM_THRESHOLD, NEVER))
