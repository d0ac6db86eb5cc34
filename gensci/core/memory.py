"""Memory of a process that allocates and frees large arrays many times a second."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next array instead of giving it back.

    By default glibc asks the system for every array over 32 MB and gives it back when freed; the
    system clears each page anew, which takes a fifth of a training step. The process then stays as
    large as it was at most.

    Returns:
        Whether the C library could be told: glibc on Linux only.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # More than this at the end of the heap would be given back; no array is mapped on its own.
    return bool(mallopt(TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(MMAP_MAX, 0))
