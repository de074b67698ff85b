"""Keep what a CPU's batches free for the batches after them."""

from __future__ import annotations

import ctypes
import os

KEEP = (1 << 30, 1 << 25)
"""Bytes up to which freed memory stays with the process; the second is the most that older versions of glibc take."""
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""The numbers of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h."""


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large arrays for this process, and whether it took that.

    By default it gives each array beyond 32 MiB back to the system as soon as it is freed, and smaller ones at the
    heap's end; the next batch then waits for the same pages to be zeroed. What is freed stays with the process; the
    peak was the same where it was measured (docs/notes.md). Settings in the environment (MALLOC_..., GLIBC_TUNABLES)
    are the user's, and win. Other C libraries know no such call, and nothing happens.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = any(mallopt(MMAP_THRESHOLD, size) == 1 for size in KEEP)
    return taken and mallopt(TRIM_THRESHOLD, KEEP[0]) == 1
