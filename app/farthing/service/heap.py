"""How the C library's allocator keeps memory for this process: one heap, and large pieces outside it."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["keep_one_heap"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), from glibc's malloc.h."""
MEBIBYTE: Final = 1 << 20
LARGE: Final = MEBIBYTE
"""Bytes from which a piece is mapped by itself, and goes back whole; glibc's own bound grows with what is freed."""
SPARE: Final = 8 * MEBIBYTE
"""Bytes that may stay free at the heap's end."""


def keep_one_heap() -> bool:
    """Let all threads share one heap; returns whether the allocator does so. To be called before there are threads.

    Each thread otherwise fills a heap of its own with what it works on for a moment (an exposition, the page's data, a
    batch of records), and keeps it: with a thousand engines that was a quarter of the process. Threads do not wait for
    each other here more than they do for the interpreter. Whoever sets MALLOC_ARENA_MAX decides, and an allocator that
    is not glibc's is left alone.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, SPARE))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
