"""How a process that trains on a CPU gets its memory: torch must not have been imported yet."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGE = 1 << 20  # bytes; with less, clearing of small pages costs more than is saved
SETTINGS = {
    # Arrays of their own pages come in pages of 2 MB, which are cheap to get.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Kernels that oneDNN made for a shape: molecules of many sizes have more than the usual 1024.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "65536",
}


def settle_memory() -> bool:
    """Let large arrays have pages of their own, and keep freed memory of the small ones.

    In the heap of glibc, arrays of a megabyte and of a hundred sizes stand in one sorted list when
    freed; after some hundred steps of training, walking it took a quarter of the time. What the
    environment says already is left as it is.

    Returns:
        Whether the C library could be told: glibc on Linux only.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGE)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
