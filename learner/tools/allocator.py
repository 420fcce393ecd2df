"""Let the C library keep the memory that steps free and allocate again."""

from __future__ import annotations

import ctypes
import os

# The parameters of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1  # return the end of the heap to the system
LARGEST_KEPT = 2**30  # bytes of a tensor; a larger one is allocated from the system each time


def keep_memory() -> bool:
    """Let this process keep memory that is freed, instead of returning it to the system after each step.

    On a CPU the tensors of a step come from `malloc`. When they are freed, glibc returns large pieces, and
    the end of its heap, to the system; the next step allocates them again, and the system fills each page
    with zeros. Whether this happens depends on sizes and addresses, so it may cost much time, or none.
    `docs/speed.md` has measurements. Call this once, before the first fit; it affects the whole process.

    The drawback is that the process stays at its peak size. The effect is that of starting Python with
    `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` set, but child processes do not inherit it.

    Returns:
        True if the settings were changed. False without glibc, as on macOS, Windows and Alpine Linux. With
        jemalloc or tcmalloc in place of glibc's allocator there is no effect.

    Source: mallopt(3).
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, ValueError, OSError):  # no confstr, no such name, no such function
        return False
    # both, because setting one stops glibc from adapting the other, which starts at 128 kB
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST_KEPT) and set_option(M_TRIM_THRESHOLD, NEVER))
